"""Training pairs whose motion is found as `deblur` finds it."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import torch

import ircdeblur
from ircdeblur import restore
from ircdeblur.data.known_blur import KnownBlur
from ircdeblur.metrics import motion_mse
from ircdeblur.nets import methods
from ircdeblur.nets.belief import LEAST_MISFIT
from ircdeblur.nets.checkpoints import load_motion_net, save_irc_net
from ircdeblur.nets.irc_net import IRCNet, IRCNetConfig
from ircdeblur.operators import MotionBlur
from ircdeblur.srgb import linear_to_srgb, srgb_to_linear
from ircdeblur.training import blind_pairs
from ircdeblur.training.blind_pairs import LEAST_MISFITS, BlindPairs

MOTION = torch.tensor([11.0, -6.0])


def photograph(name="astronaut", linear=False, noise=0.003):
    """Sharp and moved crops (1, 3, 224, 224) of a photograph that scikit-image ships."""
    sharp = torch.from_numpy(getattr(skimage.data, name)()[20:268, 100:348]).permute(2, 0, 1)[None].float() / 255
    light = srgb_to_linear(sharp) if linear else sharp
    blurred = MotionBlur(MOTION.expand(224, 224, 2).contiguous(), margin=(12, 12)).A(light)
    blurred = linear_to_srgb(blurred) if linear else blurred
    blurred = blurred + noise * torch.randn(blurred.shape, generator=torch.Generator().manual_seed(0))
    return blurred.clamp(0, 1), sharp[..., 12:-12, 12:-12]


def batches(*crops, size=2):
    pair = SimpleNamespace(blurred=torch.cat([b for b, _ in crops]), sharp=torch.cat([s for _, s in crops]))
    return BlindPairs(itertools.repeat(pair), load_motion_net(), size, seed=0)


def test_networks_learn_from_what_deblur_shows_them(monkeypatch, tmp_path):
    """Oracle: what `deblur` gives its method, of crops in either light."""
    torch.manual_seed(0)
    save_irc_net(IRCNet(IRCNetConfig(stages=1, width=4, blocks=(1, 1, 1))), tmp_path / "net.safetensors")
    monkeypatch.setattr(blind_pairs, "LEAST_MISFITS", (LEAST_MISFIT, LEAST_MISFIT))
    shown = []

    def recorded(y, blur, noise, method, settings=None, mask=None, error=None, irc_net=None, runtime="torch"):
        shown.append((y, blur.motion, noise, mask, error))
        return methods.deconvolve(y, blur, noise, method, settings, mask, error, irc_net)

    monkeypatch.setattr(restore, "run_method", recorded)
    crops = [photograph(), photograph(linear=True)]
    for blurred, _ in crops:
        ircdeblur.deblur(blurred[0], irc_net=tmp_path / "net.safetensors")
    batch = next(iter(batches(*crops)))
    for i, (y, motion, noise, mask, error) in enumerate(shown):
        torch.testing.assert_close(batch.blurred[i : i + 1], y, rtol=0, atol=1e-6)
        # The spectra are sums in another order on other threads.
        torch.testing.assert_close(batch.motion[i], motion, rtol=0, atol=1e-2)
        torch.testing.assert_close(batch.error[i], error[0], rtol=0, atol=1e-2)
        assert float(batch.noise[i]) == pytest.approx(noise, rel=1e-3)
        torch.testing.assert_close(batch.mask[i : i + 1], torch.ones_like(y[:, :1]) if mask is None else mask)
    assert motion_mse(batch.motion[0].numpy(), MOTION.expand(224, 224, 2).numpy()) < 1
    # The second one is in linear light, the sharp crop too.
    torch.testing.assert_close(batch.sharp[0], crops[0][1][0])
    torch.testing.assert_close(batch.sharp[1], srgb_to_linear(crops[1][1][0]))


def test_crops_whose_motion_is_not_believed_teach_nothing():
    still = photograph()[1]
    moved, sharp = photograph()
    source = iter(batches((still, still), (moved, sharp), size=3))
    first = next(source)
    assert isinstance(first, KnownBlur)
    assert first.psf is None
    assert first.blurred.shape == (3, 3, 224, 224)
    assert first.motion.shape == (3, 224, 224, 2)
    assert first.error.shape == (3, 224, 224)
    for crop in first.sharp:
        torch.testing.assert_close(crop, sharp[0])
    # The noise that stands for what a motion does not explain differs from crop to crop.
    assert len(set(first.noise.tolist())) == 3
    least = 0.003**2 + LEAST_MISFITS[0] ** 2
    assert 0.8 * np.sqrt(least) < float(first.noise.min()) < float(first.noise.max()) < 0.02
    assert torch.equal(next(iter(batches((moved, sharp)))).noise, next(iter(batches((moved, sharp)))).noise)


def test_crops_without_motion_are_an_error(monkeypatch):
    monkeypatch.setattr(blind_pairs, "PATIENCE", 2)
    still = photograph()[1]
    with pytest.raises(ValueError, match="no motion is believed in 2 batches"):
        next(iter(batches((still, still))))


def test_training(tmp_path):
    """Half of the batches are blind ones, some of which were photographed, made by another process: a few steps."""
    pytest.importorskip("lightning")
    import skimage.io

    from ircdeblur.training.irc_net import load_config, train_irc_net

    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        skimage.io.imsave(tmp_path / name / "a.png", skimage.data.astronaut()[:200, 100:300])
    (tmp_path / "c.yaml").write_text(
        "train_time: '00:00:02'\nfolders: [train]\nvalidate_every: 2\nvalidation_pictures: 1\n"
        "workers: 1\nblind: 0.5\nphotographed: 0.5\npairs: {crop: 96, batch: 2, max_length: 10.0}\n"
        "camera_pairs: {max_length: 10.0, still: 0.0}\ncnn: {stages: 1, width: 4, blocks: [1, 1, 1]}\n"
    )
    weights = train_irc_net(load_config(tmp_path / "c.yaml"), tmp_path, tmp_path / "run", progress=False)
    assert weights.is_file()
    assert np.isfinite(float((tmp_path / "run" / "log.csv").read_text().splitlines()[1].split(",")[3]))
