"""What goes wrong in a reduction: a clear record each time, and the rest goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from batch import wait_until
from click.testing import CliRunner
from reduction.stand import alive, calibrations, ran, raw_frame, set_fault, stand_in, write_large

from musedeep import connect
from musedeep.cli.command import cli
from musedeep.errors import InputError, UsageError, WorkError
from musedeep.reduce import reduce_exposures


@pytest.fixture
def night(tmp_path):
    """Two exposures with their calibrations, and a function that reduces them with the stand-in."""
    raw_frame(tmp_path / "raw", minute=0)
    raw_frame(tmp_path / "raw", minute=20)
    calibrations(tmp_path / "calib")
    esorex = stand_in(tmp_path / "bin")

    def reduce(**changes):
        settings = {"esorex": str(esorex), "progress": False, "timeout_minutes": 1.0} | changes
        return reduce_exposures(
            tmp_path / "raw", tmp_path / "out", calibrations=tmp_path / "calib", **settings
        )

    reduce.folder, reduce.bin = tmp_path, tmp_path / "bin"
    return reduce


def states(result):
    return [record["state"] for record in result.exposures]


ALL = ["scibasic 1", "scibasic 1", "scibasic 2", "scibasic 2", "scipost all", "scipost all"]


def test_what_is_done_is_not_done_again(night):
    first = night()
    assert states(first) == ["done", "done"]
    assert ran(night.bin) == ALL
    assert all(path.exists() and path.with_suffix(".log").exists() for path in first.tables)
    assert not list((night.folder / "out").glob("**/PIXTABLE_OBJECT*"))
    again = night()
    assert states(again) == ["done", "done"]
    assert ran(night.bin) == []
    # a product that is lost is made again, and only what it takes
    first.tables[1].unlink()
    night()
    assert ran(night.bin) == ["scibasic 1", "scibasic 2", "scipost all"]


def test_another_sky_subtraction_leaves_the_tables_of_the_ifus(night):
    night(keep=True)
    ran(night.bin)
    result = night(keep=True, sky_fraction=0.3)
    assert ran(night.bin) == ["scipost all", "scipost all"]
    assert result.exposures[0]["steps"][-1]["parameters"]["skymodel_fraction"] == 0.3
    night(keep=True, case="crowded")
    assert ran(night.bin) == ["scipost all", "scipost all"]


def test_a_changed_calibration_redoes_what_it_touches(night):
    night(keep=True)
    ran(night.bin)
    path = night.folder / "calib" / "TRACE_TABLE-02_0.fits"
    path.write_bytes(path.read_bytes() + bytes(2880))
    night(keep=True)
    assert ran(night.bin) == ["scibasic 2", "scibasic 2", "scipost all", "scipost all"]


def test_an_earlier_table_is_not_taken_for_that_of_an_exposure_that_failed(night):
    first = night()
    set_fault(night.bin, "scipost_all", "kill -SEGV $$")
    second = night(case="crowded")
    assert states(second) == ["failed", "failed"]
    assert not list((night.folder / "out").glob("*.fits"))
    kept = sorted(path.name for path in (night.folder / "out" / "earlier").glob("PIXTABLE_REDUCED_*.fits"))
    assert kept == sorted(path.name for path in first.tables)
    assert "what was made of it before is in earlier/" in second.exposures[0]["notes"]
    set_fault(night.bin, "scipost_all", None)
    assert all(path.exists() for path in night(case="crowded").tables)


def test_a_crash_is_tried_again_and_then_told(night):
    set_fault(night.bin, "scibasic_2", "kill -SEGV $$")
    result = night()
    assert states(result) == ["incomplete", "incomplete"]
    record = result.exposures[0]
    assert record["ifus"] == [1]
    assert record["problems"] == [
        "IFU 2: muse_scibasic was ended by SIGSEGV; muse_scibasic left 0 PIXTABLE_OBJECT, not 1"
    ]
    step = next(step for step in record["steps"] if step["ifu"] == 2)
    assert (step["attempts"], step["status"]) == (2, -11)
    assert ran(night.bin).count("scibasic 2") == 4
    assert "SIGSEGV" in (night.folder / "out" / "log").read_text()
    # nothing changed: the IFU is tried, the rest is kept
    night(retries=0)
    assert ran(night.bin) == ["scibasic 2", "scibasic 2"]
    set_fault(night.bin, "scibasic_2", None)
    assert states(night()) == ["done", "done"]
    assert ran(night.bin) == ["scibasic 2", "scibasic 2", "scipost all", "scipost all"]


def test_a_recipe_that_hangs_is_ended_with_what_it_started(night):
    set_fault(night.bin, "scibasic_1", 'sleep 600 & echo $! >> "$here/pids"; wait')
    result = night(timeout_minutes=0.01, retries=0)
    assert "took longer than 0.01 min and was stopped" in result.exposures[0]["problems"][0]
    assert states(result) == ["incomplete", "incomplete"]
    pids = [int(line) for line in (night.bin / "pids").read_text().split()]
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


def test_a_bad_end_by_itself_is_not_tried_again(night):
    words = 'echo "00:00:01 [ ERROR ] muse_scipost: [tid=000] the flat is upside down"; exit 255'
    set_fault(night.bin, "scipost_all", words)
    result = night()
    assert states(result) == ["failed", "failed"]
    assert "ended with exit status 255: the flat is upside down" in result.exposures[0]["problems"][0]
    assert ran(night.bin).count("scipost all") == 2
    assert not result.tables
    assert (
        json.loads((night.folder / "out" / "reduction.json").read_text())["exposures"][1]["state"] == "failed"
    )


def test_products_of_a_recipe_that_failed_are_not_taken(night):
    # as the recipe for the sky does: it leaves everything, and ends with a bad status
    set_fault(
        night.bin, "scipost_all", 'cp "$here/PIXTABLE_REDUCED-2.fits" PIXTABLE_REDUCED_0001.fits; exit 255'
    )
    result = night()
    assert states(result) == ["failed", "failed"]
    assert not list((night.folder / "out").glob("PIXTABLE_REDUCED*.fits"))


def test_a_failed_fit_of_the_sky_sets_its_bit(night):
    words = 'echo "00:00:01 [ ERROR ] muse_scipost: [tid=000] Sky line fit failed with error code 21: no"'
    set_fault(night.bin, "scipost_all", words)
    result = night()
    assert states(result) == ["done", "done"]
    assert [record["qc"]["bits"]["1"] for record in result.exposures] == [1, 1]
    assert "Sky line fit failed" in result.tables[0].with_suffix(".log").read_text()


def test_the_bits_are_told_from_the_products(night):
    # two IFUs of 200 saturated pixels, moved by a quarter of an Angstrom
    qc = night().exposures[0]["qc"]
    assert qc["bits"] == {"1": 0, "3": 1, "4": 0, "6": 1, "9": 1}
    assert (qc["saturated"], qc["shift_angstrom"]) == (400, -0.25)
    assert night(saturation=500, shift=0.3).exposures[0]["state"] == "done"


def test_half_a_product_is_refused(night):
    set_fault(
        night.bin,
        "scibasic_2",
        'head -c 4000 "$here/PIXTABLE_OBJECT.fits" > PIXTABLE_OBJECT_0001-02.fits; exit 0',
    )
    result = night()
    assert "PIXTABLE_OBJECT_0001-02.fits is not complete" in result.exposures[0]["problems"][0]
    assert states(result) == ["incomplete", "incomplete"]


def test_a_table_without_flux_calibration_is_refused(night):
    set_fault(night.bin, "scipost_all", 'cp "$here/TABLE.fits" "$here/PIXTABLE_REDUCED-2.fits"')
    result = night()
    assert states(result) == ["failed", "failed"]
    assert "is not flux calibrated although the recipe succeeded" in result.exposures[0]["problems"][0]


def test_missing_calibrations_fail_the_exposure_alone(night):
    raw_frame(night.folder / "raw", minute=40, **{"ESO INS MODE": "WFM-AO-N"})
    result = night()
    assert states(result) == ["done", "done", "failed"]
    assert any("no STD_RESPONSE for WFM-AO-N" in words for words in result.exposures[2]["problems"])


def test_an_ifu_without_calibrations_is_left_out(night):
    for path in (night.folder / "calib").glob("WAVECAL_TABLE-02*"):
        path.unlink()
    result = night()
    assert states(result) == ["incomplete", "incomplete"]
    assert result.exposures[0]["problems"] == ["IFU 2: no WAVECAL_TABLE: there is none"]
    assert result.exposures[0]["ifus"] == [1]


def test_a_dead_ifu_is_told_and_the_others_go_on(night):
    raw_frame(night.folder / "raw", minute=20, ifus=(2,))
    result = night()
    assert states(result) == ["done", "done"]
    assert result.exposures[1]["ifus"] == [2]
    assert result.exposures[1]["notes"] == ["the frame holds no IFU 1, 3-24"]


def test_a_sky_frame_that_fails_fails_those_that_need_it(night):
    raw_frame(night.folder / "raw", minute=40, kind="SKY")
    set_fault(night.bin, "create_sky_all", "exit 255")
    result = night()
    assert states(result) == ["failed", "failed"]
    assert "its SKY frame" in result.exposures[0]["problems"][0]
    assert result.sky[0]["state"] == "failed"
    set_fault(night.bin, "create_sky_all", None)
    ran(night.bin)
    result = night()
    assert states(result) == ["done", "done"]
    assert result.exposures[0]["case"] == "sky"
    assert result.exposures[0]["qc"]["bits"]["3"] == 0
    # the tables of the exposures were kept
    assert ran(night.bin) == ["create_sky all", "scipost all", "scipost all"]
    # and without it they can be reduced all the same
    assert states(night(case="no-sky")) == ["done", "done"]


def test_a_case_that_needs_a_sky_frame_says_so(night):
    result = night(case="sky")
    assert "no SKY frame of WFM-NOAO-N" in result.exposures[0]["problems"][0]


def test_what_does_not_fit_the_memory_is_not_begun(night):
    # two tables of together 8 million rows
    write_large(night.bin / "PIXTABLE_OBJECT.fits", 40000)
    result = night(recipe_memory="500MB")
    assert states(result) == ["failed", "failed"]
    assert "will need about 0.7 GB for it, and recipe_memory is 500MB" in result.exposures[0]["problems"][0]
    assert ran(night.bin) == ALL[:4]
    assert states(night(recipe_memory="1GB")) == ["done", "done"]
    assert ran(night.bin) == ALL[4:]


def begun(night, *options):
    """The command, in a process of its own, whose second IFU takes ten minutes; it has begun."""
    set_fault(night.bin, "scibasic_2", 'echo $$ > "$here/pid"; exec sleep 600')
    words = [sys.executable, "-m", "musedeep", "reduce", str(night.folder / "raw"), "--quiet", *options]
    words += ["--calibrations", str(night.folder / "calib"), "--esorex", str(night.bin / "esorex")]
    words += ["-o", str(night.folder / "out")]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (night.bin / "pid").exists() and (night.bin / "pid").read_text())
    return process


@pytest.mark.parametrize("options", [(), ("--cluster", "processes")], ids=["threads", "processes"])
def test_an_interrupted_run_ends_its_recipes_and_can_go_on(night, options):
    process = begun(night, *options)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "run the same command again" in told
    assert not alive(int((night.bin / "pid").read_text()))
    assert not (night.folder / "out" / ".lock").exists()
    ran(night.bin)
    set_fault(night.bin, "scibasic_2", None)
    assert states(night()) == ["done", "done"]
    # what was done before the interruption is not done again
    again = ran(night.bin)
    assert again == ALL[1:] or (options and again in (ALL, ALL[2:]))


@pytest.mark.parametrize("options", [(), ("--cluster", "processes")], ids=["threads", "processes"])
def test_a_run_that_is_killed_leaves_no_recipe_behind(night, options):
    """Nobody can tell a recipe to end then: it ends with the process that waits for it."""
    process = begun(night, *options)
    process.kill()
    process.communicate()
    wait_until(lambda: not alive(int((night.bin / "pid").read_text())))
    set_fault(night.bin, "scibasic_2", None)
    assert states(night()) == ["done", "done"]


def test_workers_that_stay_are_told_to_end_their_recipes(night):
    """Those of a cluster that is handed in live on; they take up the next reduction."""
    set_fault(night.bin, "scibasic_2", 'echo $$ > "$here/pid"; exec sleep 600')
    with connect("processes", memory="1GB", workers=1) as client:
        interrupt = threading.Thread(target=interrupt_when, args=[lambda: (night.bin / "pid").exists()])
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            night(client=client)
        interrupt.join()
        wait_until(lambda: not alive(int((night.bin / "pid").read_text())))
        set_fault(night.bin, "scibasic_2", None)
        assert states(night(client=client)) == ["done", "done"]
        assert len(client.nthreads()) == 1


def interrupt_when(condition):
    wait_until(condition)
    os.kill(os.getpid(), signal.SIGINT)


def test_what_cannot_be_begun_is_refused(night, tmp_path):
    with pytest.raises(UsageError, match="is not found; install esorex"):
        night(esorex=str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="did you mean 'sky_fraction'"):
        night(sky_fracton=0.2)
    with pytest.raises(InputError, match="there is no raw frame"):
        reduce_exposures(tmp_path / "calib", tmp_path / "o", esorex=str(night.bin / "esorex"))
    shutil.copy(tmp_path / "raw" / "OBJECT_0.fits", tmp_path / "raw" / "copy.fits")
    with pytest.raises(InputError, match="two frames have DATE-OBS"):
        night()


def test_the_command_prints_what_failed_and_its_exit_code_tells(night):
    set_fault(night.bin, "scipost_all", "exit 255")
    words = ["reduce", str(night.folder / "raw"), "--calibrations", str(night.folder / "calib"), "--quiet"]
    words += ["-o", str(night.folder / "out"), "--esorex", str(night.bin / "esorex")]
    run = CliRunner().invoke(cli, words)
    assert isinstance(run.exception, WorkError)
    assert "2 of 2 exposures were not reduced" in str(run.exception)
    assert "exit status 255" in run.output
    set_fault(night.bin, "scipost_all", None)
    run = CliRunner().invoke(cli, [*words, "--json"])
    assert run.exit_code == 0
    told = json.loads(run.output)
    assert [record["state"] for record in told["exposures"]] == ["done", "done"]
    assert told["versions"]["pipeline"] == "7.7.7"


def test_workers_of_a_cluster_run_the_recipes(night):
    set_fault(night.bin, "scibasic_2", "exit 1")
    result = night(cluster="processes", workers=2)
    assert states(result) == ["incomplete", "incomplete"]
    assert ran(night.bin) == ALL
    set_fault(night.bin, "scibasic_2", None)
    assert states(night()) == ["done", "done"]
