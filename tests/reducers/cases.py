"""From the inputs of a parity file to our outputs under the names of the file, with the behavior of the published code.

Sizes, scales and names come from the inputs and the metadata `case` of the file, never from expected outputs.
"""

import re

import torch
from PIL import Image

from smalti import reducers
from smalti.reducers.langdc import CLIP_SHAPE, FRAME_SHAPE
from smalti.reducers.scaling_law import PUBLISHED_EXPONENTS
from smalti.reducers.uhd_resampler import cell_boxes

VOCO_ID = 32000
"""Id of a VoCo token in the published vocabulary."""


def outputs(name, tensors, case):
    """Return our outputs for the inputs of one parity file.

    Args:
        name: name of the reducer, such as "m3".
        tensors: the inputs by name.
        case: the metadata `case` of the file.
    """
    with torch.no_grad():
        return _CASES[name](tensors, case["parameters"])


def _weights(tensors, prefix, renamed=None):
    """Return the weights below a prefix, with the beginnings of their names replaced."""
    weights = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    for old, new in (renamed or {}).items():
        weights = {re.sub(f"^{re.escape(old)}", new, key): value for key, value in weights.items()}
    return weights


def _loaded(module, weights, dtype=torch.float32):
    module.load_state_dict({key: value.clone() for key, value in weights.items()})
    return module.to(dtype).eval()


def _m3(tensors, parameters):
    out = {}
    for case, settings in parameters.items():
        for scale in (entry["scale"] for entry in settings["scales"]):
            reduced = reducers.M3(scale, upstream=True).reduce(tensors[f"{case}.tokens"], tuple(settings["grid"]))
            out[f"{case}.out_{scale}"] = reduced.tokens
    return out


def _stf(tensors, parameters):
    tokens, grid, window = tensors["tokens"], tuple(parameters["grid"]), parameters["window"]
    channels = tokens.shape[2]
    module = reducers.STF(channels, parameters["hidden_size"], upstream=True)
    _loaded(module, _weights(tensors, "weights.", {"": "projector."}))
    windows = reducers.Fold(window, upstream=True).reduce(tokens, grid).tokens
    return {
        "windows": windows,
        "windows_ws3": reducers.Fold(3, upstream=True).reduce(tokens, grid).tokens,
        "windows_no_concat": windows.unflatten(2, (window**2, channels)),
        "output": module.reduce(tokens, grid).tokens,
    }


def _mbtf(tensors, parameters):
    layers = parameters["layers"]
    states, grid = tensors["hidden_states"], tuple(parameters["grid"])
    module = reducers.MBTF(states.shape[3], parameters["hidden_size"], len(layers), upstream=True)
    weights = {k: v for k, v in tensors.items() if k.startswith(("crosslayer.", "projector."))}
    _loaded(module, _weights(weights, "", {"projector.": "stf.projector."}))
    concatenated = reducers.concatenate_layers(states, layers)
    return {
        "concatenated": concatenated,
        "fused": module.crosslayer(concatenated),
        "output": module.reduce(concatenated, grid).tokens,
    }


def _proxyv(tensors, parameters):
    out = {}
    for case, settings in parameters.items():
        tokens, grid, crops = tensors[f"{case}.tokens"], tuple(settings["crop_grid"]), settings["crops"]
        for factor in settings.get("factors", []):
            out[f"{case}.out_r{factor}"] = reducers.ProxyPool(factor, crops).reduce(tokens, grid).tokens
        if "factors" not in settings:
            weights = _weights(tensors, f"{case}.weights.", {"Wk.": "key.", "proxyv_tokens": "queries"})
            proxies, dim = weights["queries"].shape
            module = _loaded(reducers.ProxyInitializer(tokens.shape[2], dim, proxies, crops), weights)
            out[f"{case}.output"] = module.reduce(tokens, grid).tokens
            out[f"{case}.full_to_proxy_attention"] = module.full_to_proxy(tokens)
    return out


def _convllava(tensors, parameters):
    renamed = {
        "downsampling_layer.": "downsample.", "layers.": "blocks.",
    }  # fmt: skip
    parts = {
        ".layernorm.": ".norm.", ".pwconv1.": ".expand.", ".pwconv2.": ".project.",
        ".layer_scale_parameter": ".layer_scale",
    }  # fmt: skip
    weights = _weights(tensors, "weights.", renamed)
    for old, new in parts.items():
        weights = {key.replace(old, new): value for key, value in weights.items()}
    widths = parameters["stage4_width"], parameters["stage5_width"]
    module = _loaded(reducers.ConvNeXtStage(*widths, parameters["stage5_depth"], upstream=True), weights)

    def run(features):
        return module.reduce(features.flatten(2).transpose(1, 2), tuple(features.shape[2:])).tokens

    features = tensors["features"]
    output = run(features)
    out = {
        "output": output,
        "output_map": output.transpose(1, 2).unflatten(2, [size // 2 for size in features.shape[2:]]),
    }
    if "tower.stage4_features" in tensors:
        out["tower.tokens"] = run(tensors["tower.stage4_features"])
    module.double()
    return out | {"output_f64": run(features.double())}


def _prumerge(tensors, parameters):
    out = {}
    for case, settings in parameters.items():
        x, q, k = (tensors[f"{case}.{name}"] for name in "xqk")
        ratio = None if settings["adaptive"] else settings["ratio"]
        plus = settings["function"].endswith("plus")
        module = reducers.PruMerge(ratio, plus, settings["neighbours"], upstream=True)
        for suffix, dtype in (("", torch.float32), ("_f64", torch.float64)):
            attention = reducers.saliency.cls_attention(q.to(dtype), k.to(dtype))
            patches = x[:, 1:].to(dtype)
            grid = (1, patches.shape[1])  # the published code does not look at the grid
            reduced = module.reduce(patches, grid, saliency=attention, keys=k[:, 1:].to(dtype))
            out[f"{case}.output{suffix}"] = reduced.tokens
            if not suffix:
                out[f"{case}.cls_attention"] = attention
    return out


def _globalcom2(tensors, parameters):
    out = {}
    for case, settings in parameters.items():
        if "crops" not in settings:
            hidden = tensors[f"{case}.hidden_states"]
            q, k = (
                torch.nn.functional.linear(hidden, tensors[f"{case}.{x}.weight"], tensors[f"{case}.{x}.bias"])
                for x in ("q_proj", "k_proj")
            )
            out[f"{case}.cls_scores"] = reducers.saliency.cls_logits(q, k, settings["heads"])
            continue
        tokens, scores, thumbnail, thumbnail_scores, newline = (
            tensors[f"{case}.{name}"]
            for name in ("crop_tokens", "crop_cls_scores", "thumbnail_tokens", "thumbnail_cls_scores", "newline")
        )
        grid, size, retention = tuple(settings["crop_grid"]), settings["image_size_wh"], settings["retention"]
        inputs = {
            "saliency": scores.reshape(1, -1), "thumbnail_saliency": thumbnail_scores[None],
            "image_sizes": [size], "newline": newline,
        }  # fmt: skip
        fixed, upstream = (
            reducers.GlobalCom2(settings["crops"], retention, settings["temperature"], upstream)
            for upstream in (False, True)
        )
        flat = tokens.flatten(0, 1)[None]
        selection = fixed.select(scores, thumbnail_scores, grid, size)
        kept = torch.zeros(scores.shape, dtype=torch.bool)
        for row, indices in zip(kept, selection.kept, strict=True):
            row[indices] = True
        count = int(thumbnail.shape[0] * retention)
        small = reducers.TopK(count, "saliency").reduce(thumbnail[None], grid, saliency=thumbnail_scores[None])
        published = upstream.reduce(flat, grid, **inputs).tokens[0]
        maps = {"valid_mask": selection.valid, "kept_grid": kept}
        rows, width = settings["crops"][0] * grid[0], settings["crops"][1] * grid[1]
        stitched = {
            key: reducers.stitch(value[None, ..., None], settings["crops"], grid).reshape(rows, width)
            for key, value in maps.items()
        }
        results = {
            "scales": selection.scales,
            **stitched,
            "thumbnail_scores_on_crops": selection.thumbnail_scores[selection.valid],
            "combined_scores": selection.scores[selection.valid],
            "kept_per_crop": kept.sum(1),
            "thumbnail_output": small.tokens[0],
            "thumbnail_indices": small.indices[0],
            "output_fixed": fixed.reduce(flat, grid, **inputs).tokens[0],
            "output_upstream": published,
            "output_upstream_f16": published.half(),
        }
        out |= {f"{case}.{key}": value for key, value in results.items()}
    return out


def _mustdrop(tensors, parameters):
    def merge(tokens, grid, window, threshold):
        module = reducers.LocalMerge(window, threshold, upstream=True)
        reduced = module.reduce(tokens[:, 1:], grid)
        output = torch.cat((tokens[:, :1], reduced.tokens), 1)
        sizes = torch.cat((torch.ones_like(reduced.sizes[:, :1]), reduced.sizes), 1)
        return output, sizes[..., None], module.similarity(tokens[:, 1:], grid)

    out = {}
    for case, settings in parameters.items():
        tokens, grid = tensors[f"{case}.tokens"], tuple(settings["grid"])
        if "keep_rate" in settings:
            out[f"{case}.merged"] = merge(tokens, grid, 3, 0.8)[0]
            attention = tensors[f"{case}.layer23_attention_cls"]
            out[f"{case}.key_set"] = reducers.select_key_tokens(attention, settings["keep_rate"])
        else:
            results = merge(tokens, grid, settings["window"], settings["threshold"])
            names = (f"{case}.{name}" for name in ("output", "size", "window_similarity"))
            out |= dict(zip(names, results, strict=True))
    return out


def _vqtoken(tensors, parameters):
    out = {}
    for case in [case for case, settings in parameters.items() if "max_iteration" in settings]:
        settings, tokens = parameters[case], tensors[f"{case}.tokens"]
        module = reducers.VQToken(settings["K"], settings["max_iteration"], settings["tol"])
        found = module.cluster(tokens.flatten(0, 1)[None], settings["K"], tensors[f"{case}.init_centroids"][None])
        out[f"{case}.indices"] = found.labels[0].unflatten(0, tokens.shape[:2])
        out[f"{case}.means"], out[f"{case}.final_centroids"] = found.means[0], found.centroids[0]
    if "attn" in parameters:
        settings = parameters["attn"]
        module = reducers.VQAttention(
            settings["query_dim"], settings["context_dim"], settings["heads"], settings["layers"]
        )
        _loaded(module, _weights(tensors, "attn.weights."))
        for case in [case for case in parameters if case.startswith("attn_")]:
            indices, codebook = tensors[f"{case}.indices"], tensors[f"{case}.codebook"]
            out[f"{case}.output"] = module(indices[None], codebook[None])[0]
    if "elbow.distortions" in tensors:
        out["elbow.upstream_K"] = reducers.elbow(tensors["elbow.distortions"], upstream=True)
        out["elbow.intended_K"] = reducers.elbow(tensors["elbow.distortions"])
    return out


def _uhd_slicing(tensors, parameters):
    out = {}
    sizes = [tuple(size) for size in tensors["sizes"].tolist()] if "sizes" in tensors else []
    for case, settings in parameters.items():
        if not isinstance(settings, dict):
            continue
        resolution, slices = settings["scale_resolution"], settings["max_slice_nums"]
        patch = settings.get("patch_size", 14)
        if "size_wh" in settings:
            image = Image.fromarray(tensors[f"{case}.image"].numpy())
            plan = reducers.plan_slices(image.size, resolution, slices, patch)
            thumbnail, parts = reducers.slice_image(image, plan)
            out[f"{case}.thumbnail"] = _pixels(thumbnail)
            if parts:
                out[f"{case}.slices"] = torch.stack([_pixels(part) for part in parts])
            continue
        plans = [reducers.plan_slices(size, resolution, slices, patch) for size in sizes]
        grids = [(x, y) for x in range(1, slices + 1) for y in range(1, slices // x + 1)]
        out |= {f"separators_{x}x{y}": _separators(x, y) for x, y in grids}
        for name in ("grid", "thumbnail_size", "refine_size", "slice_size"):
            out[f"{case}.{name}"] = torch.tensor([getattr(plan, name) or (0, 0) for plan in plans])
        out[f"{case}.slices"] = torch.tensor([plan.slices for plan in plans])
    out["eval_resize_1024"] = torch.tensor([reducers.evaluation_size(size) for size in sizes])
    return out


def _separators(columns, rows):
    return torch.tensor(reducers.SlicePlan((columns, rows), (1, 1)).separators())


def _pixels(image):
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(image.height, image.width, 3)


def _uhd_resampler(tensors, parameters):
    side, dim = parameters["query_grid"][0], parameters["embed_dim"]
    module = reducers.SpatialResampler(parameters["kv_dim"], dim, side, parameters["heads"])
    weights = _weights(tensors, "weights.")
    weights.pop("pos_embed", None)  # a constant, which we compute
    _loaded(module, weights)
    out = {}
    for case in parameters["cases"]:
        height, width = map(int, re.fullmatch(r"g(\d+)x(\d+)", case).groups())
        out[f"{case}.boxes"] = cell_boxes(side, (height, width))
        out[f"{case}.output"] = module.reduce(tensors[f"{case}.tokens"], (height, width)).tokens
    return out


def _llava_mini(tensors, parameters):
    def load(case):
        settings = parameters[case]
        weights = _weights(tensors, f"{case}.weights.")
        weights.pop("pos_embed", None)  # a constant, which we compute
        dim = settings["embed_dim"]
        module = reducers.QueryCompressor(settings["kv_dim"] or dim, dim, settings["query_grid"][0], settings["heads"])
        return _loaded(module, weights)

    out = {}
    for case, settings in parameters.items():
        if "tiles" in settings:
            tiles, grid = tuple(settings["tiles"]), tuple(settings["tile_grid"])
            tokens = tensors[f"{case}.tile_tokens"][: tiles[0] * tiles[1]]
            stitched = reducers.stitch(tokens[None], tiles, grid)
            whole = (tiles[0] * grid[0], tiles[1] * grid[1])
            out[f"{case}.output"] = load(settings["weights"]).reduce(stitched, whole).tokens
            continue
        module = load(case)
        for side in settings["grids"]:
            output, attention = module.attend(tensors[f"{case}.g{side}.tokens"], (side, side))
            out[f"{case}.g{side}.output"], out[f"{case}.g{side}.attention"] = output, attention
    return out


def _quecc(tensors, parameters):
    out = {}
    for case, settings in parameters.items():
        dims = settings["embed_dim"], settings["multi_level_dim"], settings["text_dim"]
        module = reducers.QueCC(*dims, settings["kernel"], settings["stride"], settings["heads"])
        _loaded(module, _weights(tensors, f"{case}.weights."))
        tokens, features, text = (tensors[f"{case}.{name}"] for name in ("tokens", "multi_level", "text"))
        grid = tuple(settings["grid"])
        out[f"{case}.output"] = module.reduce(tokens, grid, keys=features, text=text).tokens
        out[f"{case}.output_text_zero"] = module.reduce(tokens, grid, keys=features).tokens
        module.double()
        inputs = {"keys": features.double(), "text": text.double()}
        out[f"{case}.output_f64"] = module.reduce(tokens.double(), grid, **inputs).tokens
    return out


def _scaling_law(tensors, parameters):
    laws = [reducers.ScalingLaw(*row) for row in tensors["table.params"].tolist()]
    n, t = tensors["table.N"], tensors["table.T"]
    out = {"table.error": torch.stack([law.error(n[:, None], t) for law in laws])}
    plans = []
    for row, text, budget in tensors["plan.query"].tolist():
        plan = reducers.plan_tokens(laws[int(row)], n.tolist(), t.tolist(), text, budget)
        plans.append(plan[:3] if plan else (float("nan"),) * 3)
    out["plan.best"] = torch.tensor(plans, dtype=torch.float64)
    for case in parameters:
        if f"{case}.scores" not in tensors:
            continue
        data = tensors[f"{case}.N"], tensors[f"{case}.T"], 1 - tensors[f"{case}.scores"]
        for kind, fit in (("grid", reducers.search_published_grid(*data)), ("fit", reducers.fit_scaling_law(*data))):
            out[f"{case}.{kind}_params"] = torch.tensor(fit.law, dtype=torch.float64)
            out[f"{case}.{kind}_loss"] = torch.tensor([fit.loss], dtype=torch.float64)
    if "average.scores" in tensors:
        out["average.published_alpha_beta"] = torch.tensor(PUBLISHED_EXPONENTS, dtype=torch.float64)
    return out


def _voco(tensors, parameters):
    out = {}
    for case in parameters:
        is_voco = tensors[f"{case}.ids"] == VOCO_ID
        if f"{case}.attention_mask" in tensors:
            out[f"{case}.allowed"] = reducers.published_voco_mask(is_voco, tensors[f"{case}.attention_mask"])
        else:
            out[f"{case}.mask"] = reducers.published_voco_mask(is_voco, causal=False)
            out[f"{case}.mask_causal"] = reducers.published_voco_mask(is_voco)
    return out


def _langdc(tensors, parameters):
    out = {}
    for case, settings in parameters.items():
        if "shapes" in settings:
            for shape in settings["shapes"]:
                reduced = reducers.AdaptivePool(shape, upstream=True).reduce(
                    tensors[f"{case}.tokens"], tuple(settings["grid"])
                )
                out[f"{case}.out_{shape[0]}x{shape[1]}"] = reduced.tokens
            continue
        frames, clips = tensors[f"{case}.frame_tokens"], tensors[f"{case}.clip_tokens"]
        clips = clips.reshape(settings["chunks"], -1, clips.shape[2])
        frames = reducers.AdaptivePool(FRAME_SHAPE).reduce(frames, tuple(settings["frame_grid"])).tokens
        clips = reducers.AdaptivePool(CLIP_SHAPE).reduce(clips, tuple(settings["clip_grid"])).tokens
        out[f"{case}.output"] = reducers.join_frames_and_clips(frames[None], clips[None])
    return out


_CASES = {
    "m3": _m3, "stf": _stf, "mbtf": _mbtf, "proxyv": _proxyv, "convllava": _convllava, "prumerge": _prumerge,
    "globalcom2": _globalcom2, "mustdrop": _mustdrop, "vqtoken": _vqtoken, "uhd_slicing": _uhd_slicing,
    "uhd_resampler": _uhd_resampler, "llava_mini": _llava_mini, "quecc": _quecc, "scaling_law": _scaling_law,
    "voco": _voco, "langdc": _langdc,
}  # fmt: skip
