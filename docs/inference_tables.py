"""Make the tables of inference.md: the speed of each runtime, and how near it comes to the machine's limit."""

from __future__ import annotations

from typing import Any

from experiment_tables import made_by, read_result

NAMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}


def inference() -> str:
    """Compare the runtimes on one clip of the full-size network."""
    result = read_result("inference")
    lines = [
        "| runtime | precision | seconds per clip | speed-up over plain | TFLOP/s | of the machine's peak |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['what']} | {row['precision']} | {_seconds(row['network_seconds'])} "
        f"| {row['times_as_fast_as_plain']:.2f} | {row['tflops']:.2f} | {100 * row['share_of_peak']:.0f} % |"
        for row in result["rows"]
    ]
    peaks = ", ".join(f"{kind} {value:.2f}" for kind, value in result["peak_tflops"].items() if "_mm" not in kind)
    note = (
        f"Medians (lowest to highest) of {result['rounds']} rounds of {result['repetitions']}; {result['network']}; "
        f"{result['tflop_a_clip']:.3f} TFLOP per clip. Peaks (the fastest large product or convolution of any library "
        f"in the same run), in TFLOP/s: {peaks}. {made_by(result)}"
    )
    return "\n".join([*lines, "", note])


def inference_whole() -> str:
    """Show a whole prediction, streaming, memory and start-up."""
    result = read_result("inference")
    lines = [
        "| runtime | precision | `predict` / network | window / step | peak memory | start to first answer |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        step = f"{row['window_over_step']:.1f}" if "window_over_step" in row else ""
        lines.append(
            f"| {row['what']} | {row['precision']} | {row['whole_over_network']['median']:.2f} | {step} "
            f"| {row['peak_memory_bytes'] / 1e9:.1f} GB | {_seconds(row['start_up_seconds'])} |"
        )
    return "\n".join([*lines, "", f"Video: {result['video']}. {made_by(result)}"])


def _seconds(figure: dict[str, Any]) -> str:
    return f"{figure['median']:.2f} ({figure['low']:.2f} to {figure['high']:.2f}) s"


def whole_path() -> str:
    """Show cutting clips, many videos, a film, and memory."""
    result = read_result("whole_path")
    lines = ["| task | plain | here |", "|---|---:|---:|"]
    for row in result["preparation"]["rows"]:
        seconds = row["seconds"]
        lines.append(
            f"| a clip of 10 s, {row['video']}: decoding, then flow; both at once "
            f"| {_median(seconds['one_after_another'])} s | {_median(seconds['overlapped'])} s |"
        )
    for row in result["many"]["rows"]:
        rates = row["clips_a_second"]
        lines.append(
            f"| {row['clips']} clips of UCF101, network of `{row['recipe']}`: clip by clip; clips cut ahead "
            f"| {rates['one_by_one']['median']:.1f} clips/s | {rates['in_turns']['median']:.1f} clips/s |"
        )
    film = result["film"]["rows"]
    lines.append(
        f"| the clip of a film of {film['minutes']} minutes, H.264 in MP4: decoding all of it; seeking "
        f"| {_median(film['seconds']['decoding_all'])} s | {_median(film['seconds']['seeking'])} s |"
    )
    for row in result["memory"]["rows"]:
        short, long = [name for name in row if name != "video"]
        peaks = [f"{name}: {row[name]['peak_megabytes']:.0f} MB" for name in (short, long)]
        lines.append(f"| peak memory of `predict`, {row['video']} | {peaks[0]} | {peaks[1]} |")
    return "\n".join([*lines, "", made_by(result)])


def parity() -> str:
    """Compare the full-size networks with eager PyTorch."""
    result = read_result("parity")
    lines = [
        "| network | runtime | largest difference from PyTorch | between two clips | same labels | prepared | loaded |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['network']}, full size | {NAMES[row['runtime']]} | {row['largest_difference']:.1e} "
        f"| {row['largest_difference_between_clips']:.1e} | {row['same_label']} of {row['clips']} "
        f"| {row['seconds_first_load']:.0f} s | {row['seconds_later_load']:.1f} s |"
        for row in result["rows"]
    ]
    return "\n".join([*lines, "", f"The {result['what']}. `{result['command']}`"])


def peers() -> str:
    """Compare the recipe small with our VGG-16 network and with the networks that one would take instead."""
    result = read_result("peers")
    lines = [
        "| network | runtime | network alone | whole path | step, with its flow | network against ours | memory |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        runtime, against = NAMES.get(row["runtime"], "PyTorch"), row["over"]["small_openvino"]["network"]["median"]
        steps = [row.get(f"{part}_milliseconds") for part in ("step", "step_with_flow")]
        lines.append(
            f"| {row['what']} | {runtime} {row['precision']} | {_ms(row['network_milliseconds'])} "
            f"| {_ms(row['whole_milliseconds'])} | {', '.join(_ms(step) for step in steps if step)} "
            f"| {against:.3g} | {row['peak_memory_bytes'] / 1e9:.1f} GB |"
        )

    def verdict(aim: dict[str, Any]) -> str:
        if aim["is_met"] is None:
            return f"not told, without {', '.join(aim['not_run']).replace('_', ' ')}"
        return "met" if aim["is_met"] else "missed"

    aims = [
        f"{aim['aim']}: {aim['came']:.3g} ({verdict(aim)}, {aim['case'].replace('_', ' ')})" for aim in result["aims"]
    ]
    int8 = result["int8_accuracy"]  # in words where there is none
    if isinstance(int8, dict):
        int8 = (
            f"is right on {int8['correct_int8']} of {int8['clips']} clips of the {int8['part']} part, "
            f"in fp32 on {int8['correct_fp32']}, and {int8['agreeing']} labels are the same"
        )
    left_out = [
        f" {name.replace('_', ' ')}: {reason}." for name, reason in result["left_out"].items() if reason != int8
    ]
    weights = f"Video: {result['video']}; weights: {result['weights']}."
    notes = [f"{weights} small in int8 {int8.rstrip('.')}.{''.join(left_out)}", "", "Aims:"]
    return "\n".join([*lines, "", *notes, "", *(f"- {aim}" for aim in aims), "", made_by(result)])


def _ms(figure: dict[str, Any]) -> str:
    return f"{figure['median']:,.3g} ms" if figure["median"] < 1000 else f"{figure['median'] / 1000:.3g} s"


def serving_soak() -> str:
    """Show what a server met under load, and how long its answers took."""
    result = read_result("serving_soak")
    counts, latency, flat = result["counts"], result["latency_seconds"], result["mean_of_first_and_second_half"]
    good = sum(count for name, count in counts.items() if name.startswith("good, /"))
    bad = sum(count for name, count in counts.items() if name.startswith("bad, "))
    cancelled = counts["cancelled at work"] + counts["cancelled while sending"]
    told = counts["good, decoder killed twice"]
    lines = [
        f"| {result['minutes']:.0f} minutes, {result['clients']} clients | |",
        "|---|---:|",
        f"| good videos answered | {good:,} |",
        f"| files that are no good videos, each answered | {bad:,} |",
        f"| uploads and answers cancelled | {cancelled:,} |",
        f"| decoders killed; good videos that were told so | {counts['decoders killed']:,}; {told} |",
        f"| turned away with 429, and asked again | {counts['turned away, asked again']:,} |",
        f"| wrong answers, lost requests | {len(result['faults'])} |",
        f"| memory of the server, first and second half | {_mega(flat['rss'])} |",
        f"| memory of its decoders | {_mega(flat['decoders_rss'])} |",
        f"| open files | {flat['files'][0]:.1f}, {flat['files'][1]:.1f} |",
    ]
    lines += [
        f"| {name}: median, 95th percentile | {_median(figure)} s, {figure['p95']:.3g} s |"
        for name, figure in latency.items()
    ]
    return "\n".join([*lines, "", made_by(result["made_by"])])


def _mega(halves: list[float]) -> str:
    return ", ".join(f"{half / 1e6:,.0f} MB" for half in halves)


def _median(figure: dict[str, Any]) -> str:
    return f"{figure['median']:.3g}"


TABLES = {
    "inference": inference,
    "inference_whole": inference_whole,
    "whole_path": whole_path,
    "parity": parity,
    "serving_soak": serving_soak,
    "peers": peers,
}
