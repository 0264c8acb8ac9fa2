"""The knobs of `imprint user ...`."""

from typing import Literal

from imprint.config import Field
from imprint.serve.section import DataFolderSection


class AddUserSection(DataFolderSection):
    """What a new account may do."""

    role: Literal["user", "admin"] = Field("user", description="user: chats and keys; admin: manages accounts, too.")
    models: tuple[str, ...] | None = Field(
        None, description="The models it may use, such as [base,ad-copy]; null for all, also for those that come later."
    )
    tokens_a_day: int | None = Field(
        None, ge=0, description="Most tokens in a day (UTC), of prompts and answers together; null takes 200,000, for an admin 2,000,000."
    )
    concurrency: int | None = Field(None, ge=1, description="Most answers at the same time; null takes 2.")
    contact: str = Field("", description="How the person can be reached, for admins to see.")


class ChangeUserSection(DataFolderSection):
    """What an account may do from now on; what is not given stays as it is."""

    role: Literal["user", "admin"] | None = Field(None, description="user or admin; a change ends the account's sessions.")
    models: tuple[str, ...] | Literal["all"] | None = Field(None, description="The models it may use, such as [base,ad-copy], or all.")
    tokens_a_day: int | None = Field(None, ge=0, description="Most tokens in a day (UTC), of prompts and answers together.")
    concurrency: int | None = Field(None, ge=1, description="Most answers at the same time.")


class ApproveSection(DataFolderSection):
    """What the account that was asked for may do."""

    name: str | None = Field(None, description="Its name, if not the one that was asked for.")
    models: tuple[str, ...] | None = Field(None, description="The models it may use, such as [base,ad-copy]; null for all.")
    tokens_a_day: int | None = Field(None, ge=0, description="Most tokens in a day (UTC); null takes 200,000.")
    concurrency: int | None = Field(None, ge=1, description="Most answers at the same time; null takes 2.")


class KeySection(DataFolderSection):
    """What a new key may do."""

    name: str = Field("", description="What it is for, for its account to see.")
    models: tuple[str, ...] | None = Field(None, description="The models it is limited to; null for those of the account.")
    days: float | None = Field(None, gt=0, le=36500, description="After how many days it ends; null for never.")
