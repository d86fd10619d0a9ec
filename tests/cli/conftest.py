import json

import pytest
import torch

from graphwright.cli import main


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A tiny BERT, saved as transformers saves models."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=2,
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=48,
        vocab_size=50,
        max_position_embeddings=32,
    )
    folder = tmp_path_factory.mktemp("models") / "bert"
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def program_folder(bert_folder, tmp_path_factory):
    """The same model, captured and saved by the command line."""
    folder = tmp_path_factory.mktemp("programs") / "bert"
    with pytest.raises(SystemExit) as leaving:
        main(["capture", str(bert_folder), "-o", str(folder)])
    assert leaving.value.code == 0
    return folder


@pytest.fixture
def run(capsys):
    """Run the command line; gives exit status, standard output (parsed where JSON was asked for), standard error."""

    def call(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main(list(map(str, words)))
        out, err = capsys.readouterr()
        return leaving.value.code, json.loads(out) if "--json" in words and out else out, err

    return call
