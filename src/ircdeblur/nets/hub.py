"""`from_pretrained` and `save_pretrained` of the networks, by the conventions of huggingface_hub's mixin for PyTorch.

A checkpoint is a folder with ``config.json``, the fields of the network's configuration, and ``model.safetensors``, its
weights; `save_pretrained` adds a model card, ``README.md``. Folders need no other library. Only to load from the Hub by
a repository's name, and to upload, huggingface_hub is imported (extra ``hub``).
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch

from ircdeblur.nets.weights_file import build_net, parameter_count, read_weights, save_weights

Net = TypeVar("Net", bound="HubMixin")

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
"""Files of a checkpoint, by the names that huggingface_hub gives them."""


def _huggingface_hub(purpose: str) -> Any:
    """Import the library."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ImportError(f"{purpose} needs huggingface_hub: pip install 'ircdeblur[hub]'") from error


class HubMixin:
    """Checkpoint folders and the Hub, for a network that is built from a configuration.

    Attributes
    ----------
    network : str
        Which network it is, as files of weights say.
    about : str
        What it does, for the model card.
    config_class : type
        The dataclass of its configuration.
    config : dataclass
        Its configuration.
    training_summary : dict
        Summary of its training; empty if nothing is known.
    """

    network: ClassVar[str]
    about: ClassVar[str]
    config_class: ClassVar[type]
    config: Any
    training_summary: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def from_pretrained(
        cls: type[Net],
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> Net:
        """Read a network from a folder, or from the Hub.

        Parameters
        ----------
        pretrained_model_name_or_path : str or path
            A folder that `save_pretrained` wrote, or the name of a repository of the Hub, ``owner/name``.
        force_download, token, cache_dir, local_files_only, revision
            For the Hub only, as for ``huggingface_hub.hf_hub_download``.

        Returns
        -------
        net : module
            In float32, on the CPU, ready for use (``eval`` mode).

        Raises
        ------
        FileNotFoundError
            If a file of the folder is missing.
        ValueError
            If the files are not those of such a network; pickled weights are never loaded.
        ImportError
            If it is no folder and huggingface_hub is missing.
        """
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            paths = [folder / name for name in (CONFIG, WEIGHTS)]
            for path in paths:
                if not path.is_file():
                    raise FileNotFoundError(f"no {path.name} in {folder}")
        else:
            name = str(pretrained_model_name_or_path)
            hub = _huggingface_hub(f"there is no folder {name}; to load from the Hub")
            where = {
                "force_download": force_download,
                "token": token,
                "cache_dir": cache_dir,
                "local_files_only": local_files_only,
                "revision": revision,
            }
            paths = [Path(hub.hf_hub_download(name, file, **where)) for file in (CONFIG, WEIGHTS)]
        metadata, state = read_weights(paths[1])
        if metadata.get("network", cls.network) != cls.network:
            raise ValueError(f"the weights of {metadata['network']}, not of {cls.network}: {paths[1]}")

        def build(config: dict[str, Any]) -> Any:
            return cls(cls.config_class(**config))  # type: ignore[call-arg]

        net: Net = build_net(build, paths[0].read_text(encoding="utf-8"), state, paths[1])
        net.training_summary = json.loads(metadata.get("summary", "{}"))
        return net

    def save_pretrained(
        self, save_directory: str | Path, *, repo_id: str | None = None, push_to_hub: bool = False, **kwargs: Any
    ) -> str | None:
        """Write the network to a folder: configuration, weights and, unless there is one, a model card.

        Parameters
        ----------
        save_directory : str or path
            The folder; it is made if need be.
        repo_id : str, optional
            Repository of the Hub; by default named as the folder is.
        push_to_hub : bool
            Upload it, too.
        **kwargs
            For `push_to_hub`.

        Returns
        -------
        url : str or None
            Of the upload.
        """
        assert isinstance(self, torch.nn.Module)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        config = asdict(self.config)
        # A run that is killed leaves the old files whole.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
            new = Path(temporary)
            save_weights(self, self.network, config, new / WEIGHTS, dict(self.training_summary))
            (new / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            names = [WEIGHTS, CONFIG]
            if not (folder / CARD).exists():
                (new / CARD).write_text(self.model_card(), encoding="utf-8")
                names.append(CARD)
            for name in names:
                os.replace(new / name, folder / name)
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or folder.name, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload weights",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
    ) -> str:
        """Upload the network to the Hub.

        Parameters
        ----------
        repo_id : str
            Repository, ``owner/name``; it is made if need be.
        commit_message, private, token, branch
            As for ``huggingface_hub.PyTorchModelHubMixin.push_to_hub``.

        Returns
        -------
        url : str
            Of the commit.
        """
        api = _huggingface_hub("to upload").HfApi(token=token)
        repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(
                api.upload_folder(
                    repo_id=repo_id,
                    repo_type="model",
                    folder_path=folder,
                    commit_message=commit_message,
                    revision=branch,
                )
            )

    def model_card(self) -> str:
        """Return a model card in Markdown: what the network is, how to load it, its size and its training."""
        assert isinstance(self, torch.nn.Module)
        name = type(self).__name__
        module = type(self).__module__
        lines = [
            "---",
            "library_name: ircdeblur",
            "license: mit",
            "pipeline_tag: image-to-image",
            "tags: [deblurring, motion-blur, deconvolution, pytorch_model_hub_mixin, model_hub_mixin]",
            "---",
            "",
            f"# {name}",
            "",
            self.about,
            "",
            "```python",
            f"from {module} import {name}",
            "",
            f'net = {name}.from_pretrained("FOLDER or owner/name")',
            "```",
            "",
            f"{parameter_count(self):,} trainable parameters.",
            "",
            "## Configuration",
            "",
            *_table(asdict(self.config)),
            "",
            "## Training",
            "",
            *(_table(self.training_summary) if self.training_summary else ["Nothing is recorded."]),
            "",
        ]
        return "\n".join(lines)


def _table(facts: Mapping[str, Any]) -> list[str]:
    """Return names and values as a Markdown table; dictionaries in a dictionary by names with dots."""
    rows: dict[str, str] = {}

    def collect(values: Mapping[str, Any], prefix: str) -> None:
        for key, value in values.items():
            if isinstance(value, Mapping):
                collect(value, f"{prefix}{key}.")
            else:
                text = value if isinstance(value, str) else json.dumps(value)
                rows[f"{prefix}{key}"] = text.replace("|", "\\|").replace("\n", " ")

    collect(facts, "")
    return ["| what | value |", "|---|---|", *(f"| {key} | {text} |" for key, text in rows.items())]
