"""Temporal encoders at their limits; their numbers are in tests/test_golden.py."""

import pytest
import torch

from models.temporal import SequenceLSTM, SequenceTransformer, build_temporal

WIDTH = 64


def clips(frames: int, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(len(lengths), frames, WIDTH), (torch.arange(frames) < torch.tensor(lengths)[:, None]).long()


@torch.no_grad()
def test_a_transformer_takes_as_many_frames_as_it_has_positions():
    encoder = SequenceTransformer(WIDTH, layers=1)
    frames, mask = clips(78, [78])
    assert encoder(frames[:, :77], mask[:, :77]).shape == (1, 77, WIDTH)
    with pytest.raises(ValueError, match="78 frames, but position embeddings for 77"):
        encoder(frames, mask)


@torch.no_grad()
def test_the_lstm_gives_no_output_at_padding_and_the_input_past_the_longest_clip():
    encoder, (frames, mask) = SequenceLSTM(WIDTH), clips(6, [4, 2])
    encoded = encoder(frames, mask)
    states, _ = encoder.lstm(frames)
    assert torch.equal(encoded[0, :4], frames[0, :4] + states[0, :4])
    assert torch.equal(encoded[1, :2], frames[1, :2] + states[1, :2])
    assert torch.equal(encoded[1, 2:4], frames[1, 2:4])
    assert torch.equal(encoded[:, 4:], 2 * frames[:, 4:])


@torch.no_grad()
def test_no_frame_sees_padding_in_a_transformer():
    encoder, (frames, mask) = SequenceTransformer(WIDTH, layers=1), clips(6, [4, 2])
    encoded = encoder(frames, mask)
    for clip, alone, length in zip(encoded, frames, (4, 2), strict=True):
        expected = encoder(alone[None, :length], torch.ones(1, length))[0]
        torch.testing.assert_close(clip[:length], expected)


@torch.no_grad()
def test_encoders_are_built_by_name():
    frames, mask = clips(6, [4, 2])
    assert isinstance(build_temporal("seqLSTM", WIDTH, 1), SequenceLSTM)
    assert build_temporal("seqTransf", WIDTH, 1, positions=6)(frames, mask).shape == frames.shape
    for name in (None, "None"):
        assert torch.equal(build_temporal(name, WIDTH, 1)(frames, mask), frames)
    with pytest.raises(ValueError, match="unknown temporal encoder 'conv': choose seqTransf, seqLSTM or None"):
        build_temporal("conv", WIDTH, 1)
