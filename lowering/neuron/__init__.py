"""The AWS Neuron target: StableHLO and HLO built operator by operator, run on XLA's CPU client, compiled elsewhere."""
