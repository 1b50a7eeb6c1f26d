"""Guards and the tests that fail without them: `make test-mutations`, or `python tests/mutations.py
[WORD ...]`.

A row removes one guard: in `file`, `source` (which occurs once) becomes `replacement`, and then
`test` must fail. The runner does so in a copy of the project, one row after another, and reports
which survive. A new guard is one row here;
`tests/house/test_mutations.py` checks quickly that every row still fits the source.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = (
    ".git",
    ".venv*",
    ".react",
    "build",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
)
TEST_SECONDS = 600
MEMORY_BYTES = 12 << 30
FAILED, NO_TESTS, TIMED_OUT = 1, 5, 124
"""What a run of pytest ends with where a test fails; and one that is late."""
LIBRARIES = [
    "dagster",
    "faiss",
    "matplotlib.pyplot",
    "mlflow",
    "open_clip",
    "pandas",
    "scipy.stats",
    "torch",
]


@dataclass(frozen=True)
class Guard:
    """One row; `test` is a file of `tests/`, or one test of it."""

    file: str
    source: str
    replacement: str
    test: str


DURABLE, PRUNING, FILES = (
    "store/test_durable.py",
    "store/test_pruning.py",
    "faults/test_domain_files.py",
)
CHECKS, CROSS, SHARDS = (
    "assets/test_blocking_checks.py",
    "extensions/ui/test_cross_site.py",
    "faults/test_bad_shards.py",
)
BUCKET, CONDEMNED = "store/test_buckets.py", "store/test_artifacts.py"
KUBERNETES = "extensions/kubernetes/test_kubernetes.py"
EARLIER = "embedding/test_earlier.py"
EXPORT = "extensions/hub/test_export.py::test_neither_links_nor_foreign_files_are_touched"
SECRETS = "settings/test_secrets.py"
ORIGINALS = "extensions/elevater/test_originals.py"
BOUNDED_FILES = "faults/test_bounded_files.py"
COSTLY = "faults/test_bad_images_and_captions.py"
BOUNDED, SICK = "extensions/ui/test_bounded_server.py", "faults/test_tracking_unavailable.py"
SERVED = "tracking/test_served.py::test_wrong_requests_get_one_line"
GUARD_SETS = "extensions/guards/test_guard_sets.py"
PUSH, SHOTS = "extensions/hub/test_export.py", "extensions/methods/test_closed_form_heads.py"
STOP = "house/test_stop.py"
SCENES, AUTOMATION = (
    "extensions/automation/test_scenes.py",
    "extensions/automation/test_automation.py",
)
TRAINING, VECTORS, STORE = (
    "faults/test_training.py",
    "extensions/sources/test_ready.py",
    "faults/test_store.py",
)

# fmt: off
# ruff: noqa: E501
GUARDS = (
    # On the disk before it has a name
    Guard("react_pipeline/store/durable.py", "        os.fsync(descriptor)\n    finally:", "        pass\n    finally:", DURABLE),
    Guard("react_pipeline/store/durable.py", "    fsync(written)\n", "", DURABLE),
    Guard("react_pipeline/store/durable.py", "(missing_ok=True)\n    fsync(path.parent)", "(missing_ok=True)", DURABLE),
    Guard("react_pipeline/store/durable.py", "        os.fsync(descriptor)\n    except", "    except", DURABLE),
    Guard("react_pipeline/store/scratch.py", "                fsync_tree(part)\n", "", DURABLE),
    Guard("react_pipeline/store/folder.py", "            fsync(temporary)\n", "", DURABLE),
    Guard("react_pipeline/store/folder.py", "(FileNotFoundError):  # pruned meanwhile\n                fsync(folder)", "(FileNotFoundError):  # pruned meanwhile\n                pass", DURABLE),
    Guard("react_pipeline/store/folder.py", "            fsync((self.home / path).parent)\n", "", DURABLE),
    Guard("react_pipeline/store/store.py", "            fsync_tree(files)\n", "", DURABLE),
    # Published once, and whole
    Guard("react_pipeline/store/folder.py", "self._write(path, data, link_or_copy)", "self._write(path, data, os.replace)", CONDEMNED),
    Guard("react_pipeline/store/store.py", "                artifact.require_files()\n            except", "                pass\n            except", CONDEMNED),
    Guard("react_pipeline/store/store.py", "            if scratch.is_removed:\n                raise removed(scratch.folder)\n            content", "            content", CONDEMNED),
    Guard("react_pipeline/store/store.py", "scratch.begin(next(iter(others), None))", "scratch.begin()", STORE),
    Guard("react_pipeline/store/scratch.py", 'part = path.with_name(f".{secrets.token_hex(8)}.{path.name}")', "part = path", "store/test_scratch.py"),
    Guard("react_pipeline/store/scratch.py", "self._described(source / file) == digests[file]", "True", "store/test_scratch.py"),
    Guard("react_pipeline/store/bucket.py", "with suppress(FileExistsError):\n            self.put", "if True:\n            self.put", BUCKET),
    Guard("react_pipeline/store/bucket.py", "        os.utime(folder)\n", "", BUCKET),
    Guard("react_pipeline/store/bucket.py", '("create", old)', '("create",)', BUCKET),
    Guard("react_pipeline/store/scratch.py", "except Exception as error:", "except OSError as error:", "store/test_artifacts.py"),
    Guard("react_pipeline/store/bucket.py", "        except SourceUnavailable as error:\n            return error\n", "        finally:\n            pass\n", BUCKET),
    Guard("react_pipeline/store/durable.py", "                fcntl.flock(file, fcntl.LOCK_UN)\n", "                pass\n", STORE),
    # Complete and verified
    Guard("react_pipeline/store/artifacts.py", 'manifest["format"] == FORMAT', "True", DURABLE),
    Guard("react_pipeline/store/artifacts.py", ' and named == place', "", DURABLE),
    Guard("react_pipeline/store/artifacts.py", 'manifest["digest"] == _digest(rest) and ', "", STORE),
    Guard("react_pipeline/store/artifacts.py", 'return known_sha256(folder, folder / name) == str(self.files[name]["sha256"])', "return True", STORE),
    Guard("react_pipeline/store/artifacts.py", "if error.errno == errno.EIO:", "if False:", STORE),
    Guard("react_pipeline/store/store.py", "if content not in (None, _FORMAT):", "if False:", "store/test_artifacts.py"),
    Guard("react_pipeline/store/durable.py", "stat.st_mtime_ns, stat.st_ctime_ns", "stat.st_mtime_ns, 0", "store/test_artifacts.py"),
    Guard("react_pipeline/store/durable.py", "return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns", "return 0, stat.st_size, stat.st_mtime_ns, 0", "project/test_outside.py"),
    Guard("react_pipeline/store/scratch.py", "                remove(target)\n", "                pass\n", "store/test_scratch.py"),
    Guard("react_pipeline/store/folder.py", "suppress(OSError):  # it is gone, and", "suppress(ZeroDivisionError):  # it is gone, and", PRUNING),
    Guard("react_pipeline/store/scratch.py", "if not path.exists():", "if True:", "store/test_scratch.py"),
    Guard("react_pipeline/store/scratch.py", "if not path.is_dir():", "if True:", "store/test_scratch.py"),
    Guard("react_pipeline/training/resume.py", 'read_state(path)["batch_size"] == state.batch_size', "True", "training/test_customize.py::test_a_training_with_other_batches_starts_again"),
    Guard("react_pipeline/embedding/earlier.py", "            remove(path)\n", "            pass\n", f"{EARLIER}::test_a_shard_that_cannot_be_linked_whole_is_encoded_anew"),
    Guard("react_pipeline/indexing/search.py", "margin = MARGINS[precision]", "margin = 0.0", "indexing/test_batch_search.py"),
    Guard("react_pipeline/indexing/search.py", " & (rank < k + MOST_ALIKE)", "", "indexing/test_batch_search.py::test_memory_is_bounded_where_very_many_rows_are_alike"),
    Guard("react_pipeline/indexing/search.py", "(RuntimeError, MemoryError)", "ZeroDivisionError", "indexing/test_index.py"),
    Guard("react_pipeline/extensions/operations/assets.py", "if not _is_shown(instance, run.run_id)", "if run", "extensions/operations/test_retention.py::test_runs_that_made_what_is_shown_stay"),
    Guard("react_pipeline/lineage.py", 'artifact.manifest["code_version"] != row.version', "False", "house/test_lineage.py"),
    Guard("react_pipeline/lineage.py", "artifact.parents.get(name) != parent.fingerprint", "False", "extensions/automation/test_survey.py"),
    Guard("react_pipeline/extensions/sources/image_client.py", "if len(body) > MAX_RESPONSE_BYTES:", "if False:", "extensions/sources/test_url_source.py::test_good_images_come_and_failures_have_reason_and_attempts"),
    Guard("react_pipeline/extensions/sources/image_client.py", "async with asyncio.timeout(self._seconds):", "async with asyncio.timeout(None):", "extensions/sources/test_url_source.py::test_good_images_come_and_failures_have_reason_and_attempts"),
    Guard("react_pipeline/extensions/sources/image_client.py", "if plain_url(url) is None:", "if False:", "extensions/sources/test_url_source.py::test_good_images_come_and_failures_have_reason_and_attempts"),
    Guard("react_pipeline/extensions/sources/image_client.py", "if not rules.can_fetch(ROBOT, url):", "if False:", "extensions/sources/test_url_source.py::test_good_images_come_and_failures_have_reason_and_attempts"),
    Guard("react_pipeline/extensions/sources/image_client.py", "if obey and opts_out(answer.headers):", "if False:", "extensions/sources/test_url_source.py::test_good_images_come_and_failures_have_reason_and_attempts"),
    Guard("react_pipeline/tracking/runs.py", '    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",\n', "", SICK),
    Guard("react_pipeline/tracking/runs.py", "beside if _DATABASE.match(self.uri) else None", "None", "tracking/test_tracking.py::test_files_lie_beside_the_store_where_no_server_is_the_uri"),
    # What forgets is not promoted
    Guard("react_pipeline/promotion/judgement.py", 'return ("challenger", self.objection) if self.objection else ("promoted", "")', 'return "promoted", ""', GUARD_SETS),
    Guard("react_pipeline/extensions/guards/results.py", "            if one.unavailable:\n", "            if False:\n", GUARD_SETS + "::test_what_is_not_known_is_no_drop_of_zero"),
    # A run has the resources of its stages, and no other place than its launcher's
    Guard("react_pipeline/extensions/kubernetes/assets.py", 'if stage.pool == "gpu":', "if True:", KUBERNETES),
    Guard("react_pipeline/extensions/kubernetes/assets.py", " if name not in run.tags}", "}", KUBERNETES + "::test_runs_of_other_assets_and_tags_of_people_stay"),
    Guard("assets/launch.py", "look = None if self.project.config.store_url else Manifests.of(self.project)", "pass", "assets/test_launch.py::test_what_follows_another_image_is_built_in_the_same_launch"),
    Guard("assets/launch.py", "launcher.class_name != dg.DefaultRunLauncher.__name__", "False", "assets/test_launch.py::test_nothing_is_built_in_place_of_another_launcher"),
    # MLflow shows each artifact once, and promotion follows each verdict once
    Guard("react_pipeline/tracking/runs.py", "        delete(other)\n", "        pass\n", "faults/test_tracking_unavailable.py::test_two_hosts_that_log_at_once_make_one_run"),
    Guard("react_pipeline/tracking/log.py", "if known is None or not known.issuperset(artifact.parents.values()):", "if known is None:", "tracking/test_tracking_registry.py::test_challenger_alias_and_replaced_champion_are_recorded"),
    Guard("react_pipeline/tracking/log.py", "            self.require_answer()\n", "", "faults/test_tracking_unavailable.py::test_a_sync_ends_at_a_server_that_fails_meanwhile"),
    Guard("react_pipeline/tracking/models.py", "        shown = last\n", "        return\n", "tracking/test_tracking_registry.py::test_aliases_show_what_was_decided_while_they_were_written"),
    Guard("react_pipeline/promotion/chain.py", 'return f"{super().slug}--{hash_value(self.identity)}"', "return super().slug", "promotion/test_chain.py::test_files_of_a_decision_that_died_unpublished_serve_no_other"),
    Guard("react_pipeline/promotion/chain.py", " and not made.reused:", ":", "promotion/test_chain.py::test_a_decision_of_another_host_is_followed"),
    Guard("react_pipeline/promotion/chain.py", "if _make_last_current(project, slug) != case.last and", "_make_last_current(project, slug)\n            if", "promotion/test_chain.py::test_a_verdict_pruned_before_it_is_current_is_made_again"),
    # A stop ends a command
    Guard("react_pipeline/stop.py", "            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()\n", "            pass\n", STOP + "::test_a_stop_that_python_drops_is_raised_again"),
    Guard("react_pipeline/stop.py", "not (requested() or is_stop)", "not is_stop", STOP + "::test_a_stop_counts_whatever_it_becomes"),
    Guard("react_pipeline/stop.py", "if is_success or", "if", STOP + "::test_a_command_that_handles_a_stop_ends_in_its_own_way"),
    Guard("react_pipeline/stop.py", "        if not requested():  # else", "        if True:  # else", STOP + "::test_a_stop_counts_whatever_it_becomes"),
    Guard("react_pipeline/stop.py", "    _end_children()\n    sys", "    sys", STOP + "::test_a_stop_ends_the_children"),
    Guard("react_pipeline/stop.py", " or signal.getsignal(number) is signal.SIG_DFL:", " or True:", STOP + "::test_a_command_outlives_its_terminal_under_nohup"),
    Guard("react_pipeline/stop.py", '    exec("")  # noqa: S102\n', "", STOP + "::test_python_itself_does_not_change_the_exit_code"),
    Guard("react_pipeline/stop.py", "        signal.set_wakeup_fd(-1)\n", "        pass\n", STOP),
    Guard("assets/launch.py", "            raise_if_stopped()\n            failed", "            failed", STOP),
    Guard("assets/retries.py", " or requested():", ":", STOP),
    # Nothing in use is removed
    Guard("react_pipeline/store/pruning.py", "if is_damaged or current", "if current", PRUNING),
    Guard("react_pipeline/store/pruning.py", "() if unread else _unused(", "_unused(", PRUNING),
    Guard("react_pipeline/store/pruning.py", "current == artifact.fingerprint or times[place] > oldest", "current == artifact.fingerprint", PRUNING),
    Guard("react_pipeline/store/pruning.py", "min(time.time(), max([*times.values(), *attempts.values()], default=0))", "time.time()", PRUNING),
    Guard("react_pipeline/store/pruning.py", "    if is_current():\n", "    if False:\n", PRUNING),
    Guard("react_pipeline/store/pruning.py", " and entry.time > oldest for", " and False for", PRUNING),
    Guard("react_pipeline/store/pruning.py", "except OSError as error:  # such as a stale", "except NotADirectoryError as error:  # such as a stale", PRUNING),
    Guard("react_pipeline/store/pruning.py", 'f"{TEMPORARY}/*"), expired)', 'f"{TEMPORARY}/*"), oldest)', PRUNING),
    Guard("react_pipeline/store/pruning.py", "finished and written <= expired:", "finished and written <= oldest:", PRUNING),
    Guard("react_pipeline/store/pruning.py", "if not is_kept and attempt", "if attempt", PRUNING),
    Guard("react_pipeline/store/pruning.py", "if store.read(path) != content:", "if False:", PRUNING),
    Guard("react_pipeline/store/pruning.py", "            artifact.require_files()\n", "", PRUNING),
    Guard("react_pipeline/store/store.py", '                self.backend.touch(f"{base}/{old}/{MANIFEST}")\n', "                pass\n", PRUNING),
    Guard("react_pipeline/extensions/hub/export.py", "if target.is_symlink() or (target.exists() and not target.is_dir()):", "if False:", EXPORT),
    Guard("react_pipeline/extensions/predict/pictures.py", "            check_shard_name(source)\n", "", "extensions/predict/test_predict.py::test_a_source_without_pictures_is_one_clear_error"),
    Guard("react_pipeline/extensions/predict/encoding.py", "if isinstance(result, ReactError):", "if False:", "extensions/predict/test_predict.py::test_shards_on_a_server_give_the_predictions_of_local_ones"),
    Guard("react_pipeline/extensions/hub/export.py", '_QUERY.sub("", " ".join(f"{error} {error.__cause__ or \'\'}".split()))', '" ".join(f"{error} {error.__cause__ or \'\'}".split())', f"{PUSH}::test_an_interrupted_upload_publishes_nothing"),
    Guard("react_pipeline/store/pruning.py", "if written_at(path) <= limit:", "if True:", "retrieval/test_decontamination.py::test_vectors_that_were_not_used_for_long_are_pruned"),
    Guard("react_pipeline/retrieval/decontamination.py", "        os.utime(file)", "        pass", "retrieval/test_decontamination.py::test_vectors_that_were_not_used_for_long_are_pruned"),
    Guard("assets/runs.py", "if not lock(file, wait=False):", "if False:", "assets/test_launch.py::test_a_run_whose_process_is_dead_is_closed"),
    Guard("assets/runs.py", "_until_the_end.enter_context(", "str(", "assets/test_launch.py::test_a_run_whose_process_could_not_report_its_end_is_closed"),
    Guard("assets/runs.py", "            path.unlink()\n", "", "assets/test_launch.py::test_a_run_whose_process_is_dead_is_closed"),
    # Files of other people
    Guard("react_pipeline/corpus/shards.py", 'if name.startswith("/") or ".." in name.split("/"):', "if False:", SHARDS),
    Guard("react_pipeline/corpus/shards.py", "elif not member.isreg() or member.issparse():", "elif False:", SHARDS),
    Guard("react_pipeline/corpus/shards.py", "            _check_end(path, file, tar.offset)\n", "", SHARDS),
    Guard("react_pipeline/extensions/sources/image_files.py", "_BATCH_ROWS = 1\n", "_BATCH_ROWS = 256\n", BOUNDED_FILES),
    Guard("react_pipeline/project/local_files.py", "filter(Path.is_file, (Path(directory, name) for name in sorted(files)))", "(Path(directory, name) for name in sorted(files) if name != 'pipe.png')", "extensions/sources/test_image_files.py"),
    Guard("react_pipeline/project/local_files.py", "return path.is_symlink() and", "return False and", "extensions/sources/test_image_files.py"),
    Guard("react_pipeline/extensions/sources/vector_files.py", "if member.file_size > MAX_EXPANSION * member.compress_size:", "if False:", BOUNDED_FILES),
    Guard("react_pipeline/extensions/dense/sets.py", "elif opened.size != size:", "elif False:", "extensions/dense/test_dense_sets.py"),
    Guard("react_pipeline/corpus/pairs.py", "if (size_bytes := sample.image.size_bytes) > MAX_IMAGE_BYTES:", "if False:", "faults/test_bad_images_and_captions.py"),
    Guard("react_pipeline/corpus/images.py", "if width * height > max_pixels:", "if False:", "faults/test_bad_images_and_captions.py"),
    Guard("react_pipeline/corpus/images.py", ", formats=FORMATS)", ")", "corpus/test_images.py"),
    Guard("react_pipeline/extensions/sources/vector_files.py", 'np.load(path, mmap_mode="r", allow_pickle=False)', 'np.load(path, mmap_mode="r", allow_pickle=True)', VECTORS),
    Guard("react_pipeline/extensions/sources/vector_files.py", "np.load(path.parent, allow_pickle=False)", "np.load(path.parent, allow_pickle=True)", VECTORS),
    Guard("react_pipeline/extensions/sources/vector_files.py", "if len(widths) > 1:", "if False:", "extensions/sources/test_ready.py::test_lists_of_other_lengths_are_no_vectors"),
    Guard("react_pipeline/clip/weights.py", "weights_only=True", "weights_only=False", "clip/test_model.py"),
    Guard("react_pipeline/clip/architecture.py", "{*(text_cfg.get(\"tokenizer_kwargs\") or ())} - _TOKENIZER_OPTIONS", "()", "faults/test_code_in_checkpoints.py"),
    Guard("react_pipeline/clip/model.py", "        _require_no_code(name)\n", "        pass\n", "faults/test_code_in_checkpoints.py"),
    Guard("react_pipeline/clip/architecture.py", "_REGISTERED_NAME.fullmatch(name)", "True", "faults/test_code_in_checkpoints.py"),
    Guard("react_pipeline/settings/config.py", "if not SLUG.fullmatch(slug):", "if False:", FILES),
    Guard("react_pipeline/settings/config.py", "if names[folded(name)] > 1:", "if False:", "settings/test_config.py"),
    Guard("react_pipeline/settings/config.py", "if times > 1:", "if False:", "settings/test_config.py"),
    Guard("react_pipeline/retrieval/own_images.py", "with_shots, inputs_of, require_apart)", "with_shots, inputs_of)", f"{SHOTS}::test_a_shot_that_shows_an_evaluation_image_is_refused"),
    Guard("react_pipeline/retrieval/own_images.py", 'if reason := content.get("unavailable"):', "if False:", f"{SHOTS}::test_shots_that_are_missing_are_named"),
    Guard("react_pipeline/settings/section.py", "    if again := [", "    if False and [", "settings/test_config.py"),
    Guard("react_pipeline/settings/methods.py", " or first_seed(name) != name:", ":", "settings/test_config.py"),
    Guard("react_pipeline/settings/config.py", "            require_free(name, METHODS)", "            pass", "settings/test_config.py"),
    Guard("react_pipeline/retrieval/decontamination.py", 'artifact.counts.get("draws", {})', "()", "retrieval/test_control.py"),
    Guard("react_pipeline/settings/training.py", "if self.epochs is not None and", "if False and", "settings/test_config.py"),
    Guard("react_pipeline/labelled/labels.py", "if times[normal(entry.name)] == 1 else []", "if True else []", "labelled/test_labelled.py"),
    Guard("react_pipeline/labelled/labelled.py", "if hashlib.sha256(data).hexdigest() != self.sha256[position]:", "if False:", "labelled/test_labelled.py"),
    Guard("react_pipeline/corpus/decoding.py", "    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 1)\n", "", COSTLY + "::test_what_takes_too_long_costs_one_image"),
    Guard("react_pipeline/corpus/remote.py", "                break\n", "                pass\n", "corpus/test_remote.py::test_a_sick_server_is_given_up"),
    Guard("react_pipeline/extensions/sources/image_client.py", "    public = list(filter(is_public, addresses))\n", "    public = addresses\n", "extensions/sources/test_url_source.py::test_loopback_in_any_spelling_is_never_connected_to"),
    Guard("react_pipeline/store/bounded.py", "if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):", "if False:", FILES),
    Guard("react_pipeline/store/bounded.py", "os.fstat(file.fileno()).st_size <= max_bytes:", "True:", BOUNDED_FILES + "::test_a_sparse_file_is_not_read"),
    Guard("react_pipeline/store/bounded.py", "if size_bytes > MAX_JSON_BYTES:", "if False:", BOUNDED_FILES + "::test_json_is_measured_before_it_is_parsed"),
    Guard("react_pipeline/clip/weights.py", "if count[\"numbers\"] > limit or count[\"names\"] > names:", "if count[\"names\"] > names:", BOUNDED_FILES + "::test_a_model_is_built_no_larger_than_its_weights"),
    Guard("react_pipeline/settings/files.py", "if not target.is_relative_to(os.path.realpath(path.parent)):", "if False:", FILES),
    Guard("react_pipeline/settings/files.py", 'if "\\0" in node.value:', "if False:", FILES),
    Guard("react_pipeline/settings/files.py", "if (more := len(faults) - MAX_PROBLEMS) > 0:", "if False:", FILES),
    Guard("react_pipeline/project/outside.py", "is_same = (fingerprint, before) == (artifact.fingerprint, look.seen)", "is_same = before == look.seen", "project/test_outside.py"),
    Guard("react_pipeline/extensions/sources/kinds.py", "store.resolve().is_relative_to(Path(folder).resolve())", "False", "settings/test_config.py"),
    Guard("react_pipeline/settings/files.py", "if node in seen:", "if False:", FILES),
    Guard("react_pipeline/preflight.py", "if len(domain.classes) < 2:", "if False:", "house/test_preflight.py"),
    Guard("react_pipeline/preflight.py", "if not place.exists():", "if False:", "house/test_preflight.py"),
    Guard("react_pipeline/settings/files.py", "if name in fields:", "if False:", "settings/test_config.py"),
    Guard("react_pipeline/settings/files.py", 'if not node.tag.endswith((":str", ":seq", ":map")):', "if False:", FILES),
    Guard("react_pipeline/settings/addresses.py", r"://[^\s/@?#:", r"://[^\s/?#", "settings/test_shard_patterns.py"),
    Guard("react_pipeline/settings/addresses.py", "if not is_sound:", "if False:", SHARDS),
    Guard("react_pipeline/extensions/sources/image_client.py", "request.url.copy_with(host=address)", "request.url", "extensions/sources/test_url_source.py::test_the_address_that_was_checked_is_connected_to"),
    # Passwords
    Guard("react_pipeline/settings/config.py", "if has_secret(address):", "if False:", SECRETS),
    Guard("react_pipeline/settings/files.py", 'if named.startswith("http") and has_secret(named):', "if False:", SECRETS),
    Guard("react_pipeline/tracking/notes.py", 'return without_secrets(" ".join(str(error).split()))', 'return " ".join(str(error).split())', SECRETS),
    Guard("react_pipeline/tracking/log.py", "                without_secrets(self.uri),\n", "                self.uri,\n", SECRETS),
    Guard("react_pipeline/tracking/notes.py", " or has_secret(address)", "", SECRETS),
    Guard("react_pipeline/extensions/plan/diagnosis.py", "without_secrets(uri)", "uri", SECRETS),
    # A plan names what does not fit
    Guard("react_pipeline/extensions/plan/plan.py", "machine.card if step.work.batch and machine.gpus else machine.memory", "machine.memory", "extensions/plan/test_plan.py::test_batches_that_no_card_holds_are_named_with_what_fits"),
    # Who may ask
    Guard("react_pipeline/extensions/ui/serve.py", 'HOST = "127.0.0.1"', 'HOST = "0.0.0.0"', BOUNDED),
    Guard("react_pipeline/extensions/ui/serve.py", 'HOST = "127.0.0.1"', 'HOST = "0.0.0.0"', "e2e/test_user_interfaces.py"),
    Guard("react_pipeline/extensions/ui/serve.py", "if not LOOPBACK_HOST.fullmatch(host) and", "if False and", CROSS),
    Guard("react_pipeline/extensions/ui/serve.py", "if origin is not None and", "if False and", CROSS),
    Guard("react_pipeline/extensions/ui/serve.py", 'if site not in (None, "same-origin", "none") and', "if False and", CROSS),
    Guard("react_pipeline/extensions/ui/assets.py", 'and scope["path"].endswith("/graphql")', "and False", "extensions/ui/test_webserver.py"),
    Guard("react_pipeline/extensions/ui/assets.py", '!= "application/json"', "== 0", "extensions/ui/test_webserver.py"),
    Guard("assets/resources.py", '"__".join([*self.key_prefix, name])', "name", "assets/test_component.py"),
    Guard("react_pipeline/pages.py", "autoescape=True", "autoescape=False", "house/test_pages.py"),
    Guard("react_pipeline/extensions/ui/serve.py", "        channel_timeout=SILENT_SECONDS,\n", "", BOUNDED),
    Guard("react_pipeline/extensions/ui/serve.py", "        threads=ANSWERED_AT_ONCE,\n", "        threads=64,\n", BOUNDED),
    Guard("react_pipeline/extensions/ui/serve.py", '        max_request_body_size=app.config["MAX_CONTENT_LENGTH"] + 1,  # the first that is refused\n', "", BOUNDED),
    Guard("react_pipeline/extensions/ui/serve.py", "    app.json = Json(app)\n", "", BOUNDED),
    # No number from a bad training or an unequal measurement
    Guard("react_pipeline/training/guards.py", "if not math.isfinite(value):", "if False:", "training/test_guards.py"),
    Guard("react_pipeline/training/guards.py", "if not all(torch.isfinite(weight).all() for weight in weights):", "if False:", f"{TRAINING}::test_weights_that_end_up_non_finite_are_not_published"),
    Guard("react_pipeline/training/data.py", "                loaded._shutdown_workers()", "                pass", "faults/test_training.py::test_training_that_guard_stopped_leaves_no_decoding_process"),
    Guard("react_pipeline/training/guards.py", "if part * pair_bytes > free:", "if False:", "training/test_memory.py"),
    Guard("react_pipeline/extensions/cluster/assets.py", "        raise error\n", "", "extensions/cluster/test_processes.py::test_a_training_whose_processes_failed_is_shown_as_failed"),
    Guard("react_pipeline/extensions/cluster/assets.py", "        _free_card()\n", "", "extensions/cluster/test_processes.py::test_the_launching_process_frees_its_card_first"),
    Guard("react_pipeline/promotion/judgement.py", "if not method.correct.index.equals(other.correct.index):", "if False:", "promotion/test_judgement.py"),
    Guard("react_pipeline/promotion/judgement.py", "if ours.get(name) != theirs.get(name)]:", "if False]:", "promotion/test_judgement.py"),
    Guard("react_pipeline/retrieval/ranking.py", 'rows["evaluation_similarity"] >= kept_out.near', 'rows["evaluation_similarity"] > 9', "faults/test_retrieved_sets.py"),
    Guard("react_pipeline/extensions/cluster/one_pass.py", "if inputs is not first and queries > most:", "if False:", "extensions/cluster/test_one_pass.py::test_a_pass_takes_no_more_than_its_limits"),
    # Blocking checks
    Guard("react_pipeline/extensions/automation/assets.py", "if task.stage not in self._loaded:", "if False:", "extensions/automation/test_automation.py"),
    # A tick gets somewhere, and asks once
    Guard("react_pipeline/extensions/automation/assets.py", "Kind.PASSING: 60", "Kind.PASSING: 3600", SCENES + "::test_an_input_that_changed_for_a_moment_costs_minutes"),
    Guard("react_pipeline/labelled/labelled.py", "            raise ChangedSource(str(error)) from error", "            raise", "labelled/test_labelled.py::test_images_are_encoded_once_and_still_refused_when_changed"),
    Guard("react_pipeline/extensions/automation/assets.py", " or len(self.tries) == MAX_REQUESTS", "", AUTOMATION + "::test_a_tick_leaves_the_rest_to_the_next"),
    Guard("react_pipeline/extensions/automation/assets.py", "if run.status == _STATUS.CANCELED:", "if False:", SCENES + "::test_a_cancelled_run_is_not_repeated"),
    Guard("react_pipeline/extensions/automation/assets.py", "counts = failure is None or failure.kind is not Kind.INTERRUPTED", "counts = True", SCENES + "::test_a_run_that_ended_with_the_servers_goes_on_at_once"),
    Guard("react_pipeline/extensions/automation/survey.py", "if failure and failure.inputs == task.inputs:", "if failure:", SCENES + "::test_a_training_that_diverges_is_never_repeated"),
    Guard("assets/reporting.py", "        await_checks(pipeline, artifact, checks)\n", "", SCENES + "::test_a_check_that_was_never_evaluated_is_asked_for"),
    Guard("assets/reporting.py", "            expect_checks(pipeline, (stage.name, key))\n", "            pass\n", AUTOMATION + "::test_a_process_that_ends_before_its_checks_passes_none"),
    Guard("assets/runs.py", "asset == project.key(stage := asset.path[-1])", "(stage := asset.path[-1])", AUTOMATION + "::test_what_another_project_runs_is_not_awaited"),
    Guard("react_pipeline/extension.py", "if taken := rows.keys() & added.keys():", "if taken := set():", "house/test_extension.py::test_no_answer_replaces_another"),
    Guard("react_pipeline/extension.py", "        rows |= added\n", "        pass\n", "faults/test_retrieved_sets.py"),
    Guard("react_pipeline/extension.py", "if isinstance(error, ReactError) or", "if", "house/test_extension.py::test_an_error_for_the_user_is_raised_as_it_is"),
    Guard("react_pipeline/extension.py", " or module.startswith(\"react_pipeline.\")", "", "house/test_extension.py::test_a_part_of_this_package_that_raises_is_not_wrapped"),
    Guard("react_pipeline/stage.py", "if children and not any(", "if False and any(", "assets/test_launch.py::test_wrong_selection_is_reported_in_one_line"),
    Guard("react_pipeline/stage.py", 'self.scope != "encoder" or method.has_model', "True", "assets/test_definitions.py"),
    Guard("react_pipeline/project/identity.py", "ignored |= method.unused_fields", "pass", "training/test_new_method.py"),
    Guard("react_pipeline/clip/tower.py", "type(block) is ResidualAttentionBlock and names <= _WEIGHTS", "type(block) is ResidualAttentionBlock", "training/test_new_method.py::test_a_trained_tower_runs_new_modules"),
    Guard("react_pipeline/clip/tower.py", "if not any(trains(name) for name, _ in model.named_parameters()):", "if False:", "clip/test_gated.py"),
    Guard("assets/corpus.py", "passed=not any(bad.values()),", "passed=True,", CHECKS),
    Guard("assets/corpus.py", "passed=indexed == rows,", "passed=True,", CHECKS),
    Guard("assets/corpus.py", "passed=all(value >= enough for value, enough in recalls.values()),", "passed=True,", CHECKS),
    Guard("assets/domains.py", "passed=fraction <= settings.max_starving_fraction,", "passed=True,", CHECKS),
    Guard("assets/domains.py", "passed=leaked == 0,", "passed=True,", CHECKS),
    Guard("assets/training.py", "passed=finite == len(losses) > 0,", "passed=True,", CHECKS),
    Guard("assets/training.py", "passed=difference <= allowed,", "passed=True,", CHECKS),
    Guard("react_pipeline/extensions/elevater/assets.py", "passed=not bad,", "passed=True,", CHECKS),
    Guard("react_pipeline/extensions/elevater/assets.py", 'passed=wrong == 0,\n        metadata={"wrong": wrong, "', 'passed=True,\n        metadata={"wrong": wrong, "', CHECKS),
    Guard("react_pipeline/extensions/dense/assets.py", "passed=wrong == 0, ", "passed=True, ", CHECKS),
    # MLflow's scoring server, with a model of ours
    Guard("react_pipeline/tracking/served.py", "if _SERVED in os.environ and len(model_input) > MAX_SERVED_ROWS:", "if False:", SERVED),
    Guard("react_pipeline/tracking/tables.py", 'if f"{name}.json" not in there:', "if True:", "tracking/test_tracking.py::test_a_result_has_tables_and_a_confusion_matrix"),
    Guard("react_pipeline/tracking/served.py", "1 <= top_k <= MAX_TOP_K and 0 <= threshold <= 1", "top_k > 0", SERVED),
    Guard("react_pipeline/extensions/sources/downloads.py", "        image = decode_apart(data, self.max_pixels)\n", "        from react_pipeline.corpus import decode_image\n        image = decode_image(data, self.max_pixels)\n", "extensions/sources/test_url_source.py::test_an_image_that_kills_its_decoder_is_a_row_of_the_ledger"),
    # Found by samples of mutants
    Guard("react_pipeline/extensions/predict/run_folder.py", "if not lock(descriptor, wait=False):", "if False:", "extensions/predict/test_predict.py::test_a_folder_that_another_run_writes_to_is_refused"),
    Guard("react_pipeline/settings/retrieval.py", ", f\"SELECT CASE WHEN\\n{where}\\nTHEN 1 END\")", ",)", "settings/test_retrieval_settings.py::test_an_error_in_a_filter_is_about_what_the_user_wrote"),
    Guard("react_pipeline/settings/retrieval.py", "connection.extract_statements(", "duckdb.extract_statements(", "settings/test_retrieval_settings.py::test_a_filter_that_is_read_leaves_no_thread"),
    Guard("react_pipeline/extensions/predict/encoding.py", "    if broken.any():\n", "    if False:\n", "extensions/predict/test_predict.py::test_a_vector_that_is_not_finite_is_an_error_of_model"),
    Guard("react_pipeline/extensions/predict/pictures.py", "        if len(data) > MAX_IMAGE_BYTES:\n", "        if False:\n", "extensions/predict/test_predict.py::test_a_picture_of_too_many_bytes_is_not_read_whole"),
    Guard("react_pipeline/extensions/pages/session.py", "max(p_value(values, population), sign_test(values)) <= level", "p_value(values, population) <= level", "extensions/pages/test_judgements.py::test_nothing_is_clear_before_the_exact_test_agrees"),
    Guard("react_pipeline/retrieval/ranking.py", 'kept_out.holds(rows["image_sha256"])', 'rows["row"].isna()', "retrieval/test_control.py::test_a_fetched_evaluation_image_is_not_drawn"),
    Guard("react_pipeline/retrieval/decontamination.py", ' | images.holds(pairs["on_the_web"])', "", "faults/test_retrieved_sets.py::test_the_check_sees_an_image_that_was_let_in"),
    Guard("react_pipeline/settings/section.py", "    if not folded(name):\n", "    if False:\n", "settings/test_config.py"),
    Guard("react_pipeline/extensions/predict/transduction.py", "cosines[torch.arange(len(rows)), rows] = -torch.inf", "pass", "extensions/predict/test_transduction.py"),
    Guard("react_pipeline/extensions/dense/assets.py", 'passed=wrong == 0,\n        metadata={"wrong": wrong},', 'passed=True,\n        metadata={"wrong": wrong},', CHECKS),
    Guard("react_pipeline/extensions/dense/maps.py", " & (highest < highest.max())", "", "extensions/dense/test_dense_maps.py"),
    Guard("react_pipeline/extensions/dense/maps.py", ".clamp(min=-10 * LOGIT_SCALE)", "", "extensions/dense/test_dense_maps.py"),
    Guard("react_pipeline/extensions/dense/results.py", "Scratch(self.scratch.folder / title)", "Scratch(self.scratch.folder / str(time.monotonic()))", "extensions/dense/test_dense_results.py::test_a_killed_measurement_predicts_only_remaining_images"),
    Guard("react_pipeline/extensions/elevater/readers.py", "elif labels.min() < 0 or labels.max() >= entry.num_classes:", "elif False:", ORIGINALS),
    Guard("react_pipeline/extensions/elevater/readers.py", " or len(labels) != count", "", ORIGINALS),
    Guard("react_pipeline/extensions/elevater/originals.py", "if missing := [str(path) for path in found if not path.is_file()]:", "if missing := []:", ORIGINALS),
    Guard("react_pipeline/extensions/elevater/image_text.py", "if missing := [name for name in captioned.images if not (folder / name).is_file()]:", "if missing := []:", "extensions/elevater/test_commands_elevater.py::test_retrieval_prints_recall_both_ways"),
    Guard("react_pipeline/extensions/elevater/images.py", "    except CorpusError as error:", "    except ZeroDivisionError as error:", "extensions/elevater/test_folders.py::test_a_shard_that_is_cut_or_missing_is_named"),
)
# fmt: on


def main(words: list[str]) -> int:
    """Remove each guard whose row has one of these words (none: every guard); 1 if a test
    passes without its guard.
    """
    rows = [
        row
        for row in GUARDS
        if not words or any(word in f"{row.file} {row.source} {row.test}" for word in words)
    ]
    found = Counter[str]()
    passes: dict[str, bool] = {}
    with tempfile.TemporaryDirectory(prefix="mutations-") as directory:
        copy = Path(directory, "project")
        shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for row in rows:
            began = time.monotonic()
            if row.test not in passes:
                passes[row.test] = _code(copy, row.test) == 0
            outcome = (
                ("killed" if _killed(copy, row) else "SURVIVED")
                if passes[row.test]
                else "FAILS WITH THE GUARD"
            )
            found[outcome] += 1
            line = f"{row.file}: {row.source.strip().splitlines()[0]}"
            print(
                f"{outcome} | {time.monotonic() - began:5.1f} s | {line} | {row.test}", flush=True
            )
    print(
        f"{len(rows)} guards removed:",
        ", ".join(f"{number} {outcome}" for outcome, number in found.items()),
    )
    return found["killed"] != len(rows)


def _killed(copy: Path, row: Guard) -> bool:
    path = copy / row.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(row.source, row.replacement), encoding="utf-8")
    try:
        code = _code(copy, row.test)
    finally:
        path.write_text(whole, encoding="utf-8")
    # 2 and more would be a row that does not fit; below 0: a signal killed it.
    return code in (FAILED, TIMED_OUT) or code < 0


def _code(copy: Path, *tests: str, marks: str = "") -> int:
    """What pytest exits with, or `TIMED_OUT`."""
    arguments = [
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        # Fresh each time: pytest would spend longer on removing folders of earlier runs.
        f"--basetemp={copy.parent / 'run'}",
        "-m",
        marks,
        *(f"tests/{test}" for test in tests),
    ]
    run = _forks().Process(target=_run_pytest, args=(copy, arguments))
    run.start()
    run.join(TEST_SECONDS)
    if run.exitcode is None:
        os.killpg(run.pid, signal.SIGKILL)
        return TIMED_OUT
    return run.exitcode


@cache
def _forks() -> Any:
    """Starts processes that have the large libraries already, whose import takes longer than most
    tests.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


def _run_pytest(copy: Path, arguments: list[str]) -> None:
    """Run tests of a copy of the project, in a process group of its own."""
    os.setsid()
    # Without its guard a bomb would take the memory of the machine.
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path[:] = [str(copy), *(path for path in sys.path if Path(path).name != "tests")]
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(silence, stream)
    sys.exit(int(pytest.main(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
