"""Finds the classes of this model in the package MM (mm-transformers), which has to be installed.

With MM imported (in Python: import mm) before from_pretrained, Transformers needs neither this file nor
trust_remote_code=True.
"""

try:
    import mm

    _found = mm.MMConfig  # another package of that name has none
except (ImportError, AttributeError) as error:
    raise ValueError(
        "this model needs the package MM: install mm-transformers, then `import mm` before from_pretrained. To share "
        "a model with those who do not have it, write it with mm.export_for_hub"
    ) from error


def __getattr__(name):
    return getattr(mm, name)
