"""What to tell a user whom a hub gave no model: what was found, and what to do, to the exact commands."""

from collections.abc import Sequence

from imprint.loading.hub.name import HubName
from imprint.loading.hub.transfer import HubProblemError
from imprint.messages import Bilingual, UserError

OFFICIAL = "https://huggingface.co"
MIRROR = "https://hf-mirror.com"


def by_hand(name: HubName) -> Bilingual:
    """How to bring a model folder from another machine."""
    folder = name.repository.rpartition("/")[2]
    revision = "" if str(name) == name.repository else f" --revision {name.revision}"
    fetch = f"hf download {name.repository}{revision} --local-dir {folder}"
    scope = f"modelscope download --model {name.repository} --local_dir {folder}"
    return Bilingual(
        f"Or bring the folder by hand: on a machine that reaches the hub, `{fetch}` (with git: `git lfs install`, then `git clone "
        f"{OFFICIAL}/{name.repository}`; many models are on ModelScope, too: `{scope}`); copy the folder {folder} here and give its path "
        f"in place of {name}, such as model.path=./{folder}.",
        f"也可以手动带入：在能联网的机器上运行 `{fetch}`（或 `git lfs install` 后 `git clone {OFFICIAL}/{name.repository}`；不少模型也在"
        f"魔搭：`{scope}`），把目录 {folder} 复制到本机，再用它的路径代替 {name}，例如 model.path=./{folder}。",
    )


def offline(name: HubName, cache: object) -> UserError:
    """The model is not in the cache, and the network is forbidden."""
    advice = by_hand(name)
    return UserError(
        Bilingual(
            f"{name}: there is no such folder here, and no whole copy in the cache {cache}; HF_HUB_OFFLINE forbids to download it. Correct "
            f"the path, or unset HF_HUB_OFFLINE. {advice.english}",
            f"{name}：本地没有这个目录，缓存中也没有完整的副本，而 HF_HUB_OFFLINE 禁止联网：请改正路径，或取消该环境变量。{advice.chinese}",
        )
    )


def unreachable(name: HubName, endpoint: str, problem: HubProblemError) -> UserError:
    """The hub gives no answer, or none of use."""
    mirror = f"In mainland China set HF_ENDPOINT={MIRROR} and run again. " if endpoint != MIRROR else ""
    chinese_mirror = f"中国大陆可设 HF_ENDPOINT={MIRROR} 后重试。" if endpoint != MIRROR else ""
    advice = by_hand(name)
    if problem.status == 429:
        reason = Bilingual(
            f"the hub {endpoint} answers no more requests for now (HTTP status 429{_pause(problem)}). Wait, or log in (`hf auth login`), "
            "which allows more, and run again",
            f"{endpoint} 暂时限制了请求次数（429）：请稍后重试，或用 hf auth login 登录以提高限额",
        )
    else:
        reason = Bilingual(
            f"the hub {endpoint} cannot be used: {problem.reason.english}. Check the network, and the variables "
            "HTTPS_PROXY and HF_ENDPOINT",
            f"无法使用 {endpoint}：{problem.reason.chinese}。请检查网络，以及环境变量 HTTPS_PROXY 和 HF_ENDPOINT",
        )
    return UserError(
        Bilingual(
            f"{name}: there is no such folder here, and {reason.english}. {mirror}{advice.english}",
            f"{name}：本地没有这个目录；{reason.chinese}。{chinese_mirror}{advice.chinese}",
        )
    )


def refused(name: HubName, endpoint: str, problem: HubProblemError, near: Sequence[str]) -> UserError:
    """The hub knows no such model or revision, or shows it to others only; `near`: names that are there."""
    page = f"{endpoint}/{name.repository}"
    if problem.code == "GatedRepo" or (problem.status == 403 and problem.code != "RepoNotFound"):
        advice = by_hand(name)
        return UserError(
            Bilingual(
                f"{name}: is shown only to accounts that were granted access. Open {page} in a browser, accept its terms, then run "
                f"`hf auth login` here (or set HF_TOKEN) with a token of that account, and run again. {advice.english}",
                f"{name}：该模型需要授权。请在浏览器中打开 {page} 同意其条款，再在本机运行 hf auth login（或设置 HF_TOKEN）后重试。"
                f"{advice.chinese}",
            )
        )
    found = f" Near: {', '.join(near)}." if near else ""
    chinese_found = f"相近的有：{'、'.join(near)}。" if near else ""
    if problem.code == "RevisionNotFound":
        return UserError(
            Bilingual(
                f"{name}: {name.repository} has no branch, tag or commit {name.revision!r}.{found} Leave @{name.revision} out for its "
                "newest state, or correct it.",
                f"{name}：{name.repository} 没有版本 {name.revision!r}。{chinese_found}去掉 @{name.revision} 即用最新版本，或改正它。",
            )
        )
    return UserError(
        Bilingual(
            f"{name}: there is no such folder here, and no such model at {endpoint}.{found} Check the spelling. A private model needs "
            "`hf auth login`, or HF_TOKEN.",
            f"{name}：本地没有这个目录，{endpoint} 上也没有这个模型。{chinese_found}请检查拼写；私有模型需先 "
            "hf auth login 或设置 HF_TOKEN。",
        )
    )


def broke_off(name: HubName, file: str, done: int, size: int, problem: HubProblemError) -> UserError:
    """A download came to a halt for good; what there is, is kept."""
    return UserError(
        Bilingual(
            f"{name}: {file}: the download broke off at {done:,} of {size:,} bytes: {problem.reason.english}. They are kept: run the same "
            f"command again to go on from there. {by_hand(name).english}",
            f"{name}：{file} 下载到 {done:,} / {size:,} 字节时中断：{problem.reason.chinese}。已下载的部分会保留，"
            "再次运行同一命令即可继续。"
            f"{by_hand(name).chinese}",
        )
    )


def not_what_was_listed(name: HubName, file: str, endpoint: str, found: Bilingual) -> UserError:
    """A file came that is not the listed one; it was deleted."""
    return UserError(
        Bilingual(
            f"{name}: {file} from {endpoint} is not the file that the hub lists: {found.english}. It was fetched twice and deleted. A "
            f"proxy or a mirror may have changed it: try another one (HF_ENDPOINT), or later. {by_hand(name).english}",
            f"{name}：{endpoint} 给出的 {file} 与列表不符：{found.chinese}。已重试一次并删除。可能是代理或镜像站有误：请换一个"
            f"（HF_ENDPOINT）或稍后再试。{by_hand(name).chinese}",
        )
    )


def _pause(problem: HubProblemError) -> str:
    return f"; it asks to wait {problem.pause:.0f} seconds" if problem.pause else ""
