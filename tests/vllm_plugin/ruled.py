"""A front end that takes rules and a worker that decides them, over a tiny base LM."""

import torch

import hypersteer as hs
from gating import condition_at
from hypersteer.config.vllm_plugin import PluginConfig
from hypersteer.edits.edit import VectorEdit
from hypersteer.vllm_plugin.front import Front
from hypersteer.vllm_plugin.making import Making
from hypersteer.vllm_plugin.questions import METHOD, answers_of, asked
from vllm_plugin.places import STEER, saved

PROMPTS = ["Hi", "Tell me about your day at the sea, about the ship and the bees.", "Why?", "No."]
TWO = "if half then turn; if not half then other at -1"
EDITS = {"turn": STEER[0], "other": STEER[1]}


class Worker:
    """A worker, and vLLM's `LLM` as far as it is asked to decide."""

    def __init__(self, making):
        self.deciding, self.calls = making.deciding, []

    def collective_rpc(self, method, args=()):
        assert method == METHOD
        self.calls.append(args)
        return [self.deciding.answer(*args)]

    async def decide(self, question):
        return answers_of(self.collective_rpc(METHOD, (asked([question]),))[0])[0]


class Placed:
    """A front end with its worker, over a tiny base LM, and the steerer that they are held to."""

    def __init__(self, folder, *, layer=1, **settings):
        self.steerer, model, checkpoint = saved(folder, prompted=True)
        lm = self.steerer.lm
        self.half = condition_at(lm, layer, prompts=PROMPTS)
        file = self.half.save(folder / "half.safetensors")
        self.config = PluginConfig(
            checkpoint=str(checkpoint),
            edits=str(folder / "edits"),
            rules=True,
            condition=(f"half={file}",),
            rule=("named=if half then turn",),
            steer=(f"turn={STEER[0]}",),
            layers=(2,),
            **settings,
        )
        self.front = Front(self.config, str(model))
        self.making = Making(self.front, str(model), device="cpu", dtype="float32")
        self.llm = Worker(self.making)
        edit = VectorEdit(vector=torch.ones(lm.width), site=lm.site(2), base_lm=str(lm.identity))
        (folder / "edits").mkdir()
        self.edit = hs.load_edit(edit.save(folder / "edits" / "ones.safetensors"))
