"""The OpenVINO target: models built operator by operator, stateful decoders, weights in few bits."""
