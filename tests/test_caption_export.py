"""An exported captioning model: equal captions from its folder and from ONNX graphs."""

import numpy as np
import onnxruntime
import pytest
import torch

from models import CLIP, HBICaptioning, Tokens, load_model
from scripts.export import main
from tests.test_export import FRAMES, SMALL, WORDS, tokens


@pytest.fixture(scope="module")
def captioner():
    torch.manual_seed(0)
    model = HBICaptioning(CLIP(SMALL), temporal_layers=1, recipe="corrected", decoder_layers=1, trained_levels=2).eval()
    torch.nn.init.normal_(model.decoder.embedding.weight, std=0.2)  # so that the words differ
    torch.nn.init.normal_(model.decoder.positions)
    return model


def test_a_folder_gives_back_the_model(captioner, tmp_path):
    captioner.save_pretrained(tmp_path)
    loaded, video = load_model(tmp_path), Tokens(*tokens(3, FRAMES, seed=1))
    assert isinstance(loaded, HBICaptioning)
    for ours, theirs in zip(captioner.generate(video), loaded.generate(video), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_graphs_write_the_captions_of_the_model(captioner, tmp_path, capsys):
    captioner.save_pretrained(tmp_path / "model")
    sizes = ["--max_words", str(WORDS), "--max_frames", str(FRAMES)]
    main(["--checkpoint", f"{tmp_path}/model", "--output", f"{tmp_path}/out", *sizes])
    assert "next_word.onnx: differs from PyTorch by" in capsys.readouterr().out
    memory, word = (onnxruntime.InferenceSession(tmp_path / "out" / f"{name}.onnx") for name in ("memory", "next_word"))
    video, mask = tokens(5, FRAMES, seed=2)
    read, read_mask = memory.run(None, {"video": video.numpy(), "video_mask": mask.numpy()})
    words = np.zeros((*read.shape[:4], 0, 64), np.float32)
    token, ids = np.full(5, captioner.decoder.start), []
    for _ in range(WORDS - 1):
        inputs = {"token": token, "memory": read, "memory_mask": read_mask, "words": words}
        log_probs, words = word.run(None, inputs)
        token = log_probs.argmax(axis=1)
        ids.append(token)
    expected = captioner.generate(Tokens(video, mask), beams=1, max_words=WORDS).best()
    found = torch.from_numpy(np.stack(ids, axis=1))
    assert len(found.unique()) > 3
    inside = torch.arange(WORDS - 1) < expected.lengths.unsqueeze(1)
    assert torch.equal(found[inside], expected.ids[inside])
