"""An extension of Griffe, which reads the API reference from the source: signatures of linen modules."""

import griffe


class Linen(griffe.Extension):
    """Gives each linen module the constructor that Flax makes of its annotated attributes."""

    def on_class_members(self, *, cls: griffe.Class, **_) -> None:
        fields = [attribute for attribute in cls.attributes.values() if attribute.annotation is not None]
        if fields and any(str(base) in ("nn.Module", "VectorQuantizer") for base in cls.bases):
            kind = griffe.ParameterKind.positional_or_keyword
            parameters = [griffe.Parameter("self", kind=kind)]
            parameters += [
                griffe.Parameter(a.name, annotation=a.annotation, kind=kind, default=a.value) for a in fields
            ]
            cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*parameters)))
