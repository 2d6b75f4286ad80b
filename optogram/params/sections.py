"""What a section of params.yaml is."""

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from optogram.params.crosschecks import check_name

Name = Annotated[str, AfterValidator(check_name)]


class Section(BaseModel):
    """A frozen section: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        """pydantic takes `seed: true` for 1."""
        for name, value in values.items() if isinstance(values, Mapping) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field and {int, float} & {field.annotation, *get_args(field.annotation)}:
                raise ValueError(f"{name} = {str(value).lower()}, expected a number")
        return values


class Method(Section):
    """The section of a method, which can be left out."""

    run: bool = Field(default=True, description="false leaves it out, and what needs it")
