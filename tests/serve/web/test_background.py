import asyncio

from imprint.serve.generation.job import Job
from imprint.serve.web.answers import AnswerSet
from imprint.serve.web.background import end_what_may_not_go_on
from imprint.serve.web.metrics import Metrics
from imprint.serve.web.services import Services
from imprint.serve.web.settings import WebSettings
from tests.serve.web.scripted import ScriptedBackend, ScriptedStore, principal


def test_what_goes_on_ends_with_the_rights_to_it_and_nothing_else_does() -> None:
    async def revoke() -> list[bool]:
        backend, store = ScriptedBackend(), ScriptedStore()
        services = Services(backend, store.as_store(), WebSettings(), Metrics(backend))
        sets = []
        for name in ("ada", "bob"):
            sets.append(AnswerSet(services, principal(name, "user"), ""))
            await sets[-1].start([Job("base", name, text="slow")])
        store.unwanted = "bob"
        await end_what_may_not_go_on(services)
        ended = [answers.answers[0].generation.ended for answers in sets]
        sets[0].cancel()
        return ended

    assert asyncio.run(revoke()) == [False, True]
