"""Blur kernels on disk."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.psf import read_psf, write_psf

KERNEL = linear_motion_kernel(9.3, 33)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".npy"])
def test_round_trip(tmp_path, suffix):
    path = tmp_path / f"k{suffix}"
    write_psf(path, KERNEL)
    np.testing.assert_allclose(read_psf(path), KERNEL, atol=1e-5 if suffix == ".png" else 1e-7)


def test_what_other_programs_read(tmp_path):
    for suffix in (".png", ".tif", ".npy"):
        write_psf(tmp_path / f"k{suffix}", 7 * KERNEL)
    np.testing.assert_allclose(np.load(tmp_path / "k.npy"), KERNEL, atol=1e-7)
    stored = tifffile.imread(tmp_path / "k.tif")
    assert stored.dtype == np.float32
    np.testing.assert_allclose(stored, KERNEL, atol=1e-7)
    picture = np.asarray(Image.open(tmp_path / "k.png"))
    assert picture.max() == 65535
    np.testing.assert_allclose(picture / picture.sum(dtype=np.float64), KERNEL, atol=1e-5)


def test_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'\.mat'; use \.png, \.tif or \.npy"):
        write_psf(tmp_path / "k.mat", KERNEL)
    with pytest.raises(ValueError, match="negative"):
        write_psf(tmp_path / "k.npy", -KERNEL)
    assert not list(tmp_path.iterdir())
