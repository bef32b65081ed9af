"""TorchScript archives written by hand: source text, and the objects that are made of it."""

import io

import torch

SOURCE = """class Net(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool{attributes}
  def forward(self: __torch__.Net,
    x: Tensor) -> Tensor:
{body}    return torch.flatten(x, 1)
{methods}"""
EMPTY = b"\x80\x02)."


def text(value):
    """A string as a pickle of torch writes it."""
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def instance(name, **slots):
    """The pickle of an object of a class, without beginning and end; a slot is `True`, `None`, a number or a pickle."""
    module, _, name = name.rpartition(".")
    plain = {True: b"\x88", False: b"\x89", None: b"N"}
    pickled = {key: value if isinstance(value, bytes) else plain[value] for key, value in slots.items()}
    made = b"".join(text(key) + value for key, value in pickled.items())
    return f"c{module}\n{name}\n)\x81".encode("latin-1") + b"}(" + made + b"ub"


def tensor(shape, items, record="0"):
    """The pickle of a float32 tensor of one dimension, `shape` long, in a storage of `items` elements."""

    def number(n):
        return b"J" + n.to_bytes(4, "little")

    storage = text("storage") + b"ctorch\nFloatStorage\n" + text(record) + text("cpu") + number(items)
    view = b"(" + storage + b"tQK\x00(" + number(shape) + b"t(K\x01t\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + view + b"tR"


def net(body="", methods="", attributes="", before="", after="", other=None, records=None, **slots):
    """An archive with the class Net, whose forward pass runs `body` and returns its flattened input.

    `methods` and `attributes` belong to the class, `before` and `after` stand around it, `other` is a second file of
    code, `records` are put in as they are, and `slots` are what the object holds.
    """
    source = SOURCE.format(
        attributes="".join(f"\n  {line}" for line in attributes.splitlines()),
        body="".join(f"    {line}\n" for line in body.splitlines()),
        methods="".join(f"  {line}\n" for line in methods.splitlines()),
    )
    code = {"__torch__": before + source + after, **({"__torch__.other": other} if other else {})}
    return archive(code, instance("__torch__.Net", training=False, **slots), records)


def archive(code, objects, records=None):
    """An archive of modules (name: source text) and the pickle of its object; `records` replace or follow."""
    contents = {f"code/{module.replace('.', '/')}.py": source.encode() for module, source in code.items()}
    contents |= {"data.pkl": b"\x80\x02" + objects + b".", "constants.pkl": EMPTY, "version": b"3\n", **(records or {})}
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    for name, content in contents.items():
        content = content if isinstance(content, bytes) else content.encode()
        writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return buffer.getvalue()
