"""Ids arrive as they left, however narrow they travel."""

import numpy as np
import pytest
import torch

from scratch.train import window_batch
from scratch.train._transfer import pack, send, unpack

IDS = {
    np.uint16: [0, 1, 2**15 - 1, 2**15, 2**16 - 1],
    np.uint32: [0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1],
}


@pytest.mark.parametrize("dtype", IDS)
def test_all_bits_of_an_id_survive_a_signed_type_of_its_width(
    dtype: type[np.unsignedinteger],
) -> None:
    ids = np.array([IDS[dtype]], dtype)
    packed, mask = pack(ids)
    assert packed.element_size() == ids.itemsize
    unpacked = unpack(packed[:, 1:], mask)
    assert unpacked.dtype == torch.int64
    assert unpacked.tolist() == [IDS[dtype][1:]]
    assert unpacked.is_contiguous()


def test_on_a_cpu_inputs_and_targets_stand_by_themselves() -> None:
    inputs, targets = send(np.array([[1, 2, 3]], np.uint16), torch.device("cpu"))
    assert (inputs.tolist(), targets.tolist()) == ([[1, 2]], [[2, 3]])
    assert inputs.is_contiguous()
    assert targets.is_contiguous()
    inputs.zero_()
    assert targets.tolist() == [[2, 3]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this needs a CUDA device")
@pytest.mark.parametrize("dtype", ["u2", "u4", "i8", ">u2"])
def test_a_cuda_device_gets_what_a_cpu_gets(dtype: str) -> None:
    tokens = (np.arange(5000) * 13).astype(dtype)
    for step in range(50):  # more batches than blocks of pinned memory
        starts = np.arange(64) + step
        there, here = (window_batch(tokens, starts, 256, device) for device in ("cuda", "cpu"))
        assert torch.equal(there.inputs.cpu(), here.inputs)
        assert torch.equal(there.targets.cpu(), here.targets)
