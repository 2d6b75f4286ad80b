"""The families of the house in one ordered list: params, stages, findings and the report's sections come in its order.

A new family is a new name here. Everything else of it lies in modules of its own; docs/adding-a-method.md lists them.
"""

FAMILIES = (
    "images",
    "models",
    "generative",
    "heads",
    "neurons",
    "visualisation",
    "rosetta",
    "guidance",
    "report",
)
