"""What the tests of import and export share: folders in Hugging Face's form."""
import json
import pathlib
import shutil
import struct
import tempfile

from cli_testing import Case, nibble

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden/hf_gpt2"


def read_tensors(path):
    """{name: (dtype, shape, bytes)}"""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (e["dtype"], e["shape"], data[8 + size:][slice(*e["data_offsets"])]) for name, e in header.items()}


def write_tensors(path, tensors):
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values()))


def bare(tensors):
    return {name.removeprefix("transformer."): t for name, t in tensors.items()}


def weights(checkpoint):
    return read_tensors(max((checkpoint / "checkpoints").glob("*.safetensors")))


class Folders(Case):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.tensors = read_tensors(GOLDEN / "model.safetensors")
        cls.imported = cls.folder / "imported"
        done = nibble("import", GOLDEN, "--output", cls.imported)
        assert done.returncode == 0, done.stderr

    def copy(self, tensors=None, **config):
        """The golden folder, with other tensors, and other fields in config.json."""
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        for file in GOLDEN.iterdir():
            shutil.copy(file, folder)
        if tensors is not None:
            write_tensors(folder / "model.safetensors", tensors)
        changed = json.loads((GOLDEN / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps({k: v for k, v in changed.items() if v != "absent"}))
        return folder

    def read(self, folder):
        """Imports; the tensors of the checkpoint."""
        out = folder / "out"
        self.ok("import", folder, "--output", out)
        return weights(out)

    def refuse(self, pattern, folder):
        self.fails("^import: .*" + pattern, "import", folder, "--output", folder / "out")
        self.assertFalse((folder / "out").exists())
