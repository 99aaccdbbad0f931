import HSSLFormats
import HSSLModels

/// A model of ours as timm has it. Its names are ours, but for DINOv3 and a ResNet without norms.
struct TimmLayout {
    private let architecture: ModelArchitecture
    private let preprocessing: Preprocessing
    private let tensors: [HubLayout.Own]

    init(_ architecture: ModelArchitecture, _ preprocessing: Preprocessing, _ tensors: [HubLayout.Own]) {
        (self.architecture, self.preprocessing, self.tensors) = (architecture, preprocessing, tensors)
    }

    /// - Throws: `ModelError` where timm has no such network.
    func layout() throws -> HubLayout {
        switch architecture.configuration {
        case let sizes as VisionTransformer.Configuration:
            return try sizes.ropeTemperature == nil ? vit(sizes) : eva(sizes)
        case let sizes as Swin.Configuration: return try swin(sizes)
        case let sizes as ConvNeXt.Configuration: return try convNeXt(sizes)
        case let sizes as ResNet.Configuration: return try resNet(sizes)
        default: throw ModelError("timm has no \(architecture.family) that is known here")
        }
    }

    /// timm's name of a model whose sizes are ours; the arguments say all that can differ.
    private func name(_ fallback: String) -> String {
        let name = architecture.name
        if name.contains("dinov") || name.hasPrefix("resnet") || name.hasPrefix("convnext"), name != "convnext_micro" {
            return name
        }
        let published = [
            "vit_tiny": "vit_tiny_patch16_224", "vit_small": "vit_small_patch16_224",
            "vit_base": "vit_base_patch16_224", "vit_large": "vit_large_patch16_224",
            "swin_tiny": "swin_tiny_patch4_window7_224", "swin_small": "swin_small_patch4_window7_224",
            "swin_base": "swin_base_patch4_window7_224",
        ]
        return published[name] ?? fallback
    }

    /// - Parameters:
    ///   - sizes: arguments of the model's constructor.
    ///   - first: the module that reads the image.
    ///   - isFixed: whether the model takes images of one size only.
    private func config(
        _ name: String, _ sizes: JSONObject, features: Int, pool: String, first: String, classifier: String,
        isFixed: Bool
    ) -> JSONObject {
        let size = JSONValue.integer(architecture.imageSize)
        let images = preprocessing
        var pretrained: JSONObject = [
            "tag": "hssl", "custom_load": false, "input_size": [3, size, size], "fixed_input_size": .bool(isFixed),
            "interpolation": .string(images.interpolation.rawValue), "crop_pct": .number(cropShare),
            "crop_mode": "center",
        ]
        pretrained["mean"] = .array(images.mean.map(shortest))
        pretrained["std"] = .array(images.std.map(shortest))
        pretrained["num_classes"] = 0
        pretrained["first_conv"] = .string(first)
        pretrained["classifier"] = .string(classifier)
        return [
            "architecture": .string(name), "num_classes": 0, "num_features": .integer(features),
            "global_pool": .string(pool), "model_args": .object(sizes), "pretrained_cfg": .object(pretrained),
        ]
    }

    /// timm makes the shorter side ⌊crop / crop_pct⌋.
    private var cropShare: Double {
        let (crop, resize) = (Double(preprocessing.crop), Double(preprocessing.resize))
        return Int(crop / (crop / resize)) == preprocessing.resize ? crop / resize : crop / (resize + 0.25)
    }

    // MARK: Vision transformers

    private func norm(_ found: Double, of timm: Double) -> [String] {
        if found == timm { return [] }
        return ["timm's norms add \(timm) to the variance, this model's \(found): features differ a little"]
    }

    /// A ratio that timm's `int(width * ratio)` makes the wanted width of.
    private func ratio(_ hidden: Int, _ width: Int) -> JSONValue {
        hidden % width == 0 ? .integer(hidden / width) : .number((Double(hidden) + 0.5) / Double(width))
    }

    private func vit(_ sizes: VisionTransformer.Configuration) throws -> HubLayout {
        var arguments: JSONObject = [
            "img_size": .integer(sizes.imageSize), "patch_size": .integer(sizes.patchSize),
            "embed_dim": .integer(sizes.embedDim), "depth": .integer(sizes.depth),
            "num_heads": .integer(sizes.numHeads),
        ]
        let isGated = sizes.activation == .swiglu
        arguments["mlp_ratio"] = ratio(isGated ? 2 * sizes.hiddenDim : sizes.hiddenDim, sizes.embedDim)
        arguments["init_values"] = sizes.layerScale ? .number(1e-5) : .null
        arguments["reg_tokens"] = .integer(sizes.registerTokens)
        arguments["no_embed_class"] = .bool(!sizes.positionsCoverClass)
        // The layer with a gate is no argument: only this model has it.
        let name = isGated
            ? "vit_giant_patch14\(sizes.registerTokens > 0 ? "_reg4" : "")_dinov2" : name("vit_base_patch16_224")
        return HubLayout(
            model: "VisionTransformer", map: Library.timmNames,
            config: config(
                name, arguments, features: sizes.embedDim, pool: "token", first: "patch_embed.proj", classifier: "head",
                isFixed: true), own: tensors, notes: norm(sizes.normEpsilon, of: 1e-6))
    }

    /// timm's EVA, which DINOv3 is.
    private func eva(_ sizes: VisionTransformer.Configuration) throws -> HubLayout {
        var arguments: JSONObject = [
            "img_size": .integer(sizes.imageSize), "patch_size": .integer(sizes.patchSize),
            "embed_dim": .integer(sizes.embedDim), "depth": .integer(sizes.depth),
            "num_heads": .integer(sizes.numHeads),
        ]
        let isGated = sizes.activation == .swiglu
        let hasBias = try tensors.contains { tensor in
            try tensor.name.hasSuffix("attn.qkv.bias") && tensor.values().contains { $0 != 0 }
        }
        arguments["mlp_ratio"] = ratio(sizes.hiddenDim, sizes.embedDim)
        arguments["swiglu_mlp"] = .bool(isGated)
        arguments["swiglu_align_to"] = 1
        arguments["qkv_bias"] = .bool(hasBias)
        arguments["init_values"] = sizes.layerScale ? .number(1e-5) : .null
        arguments["num_reg_tokens"] = .integer(sizes.registerTokens)
        arguments["rope_temperature"] = .number(sizes.ropeTemperature ?? 100)
        arguments["global_pool"] = "token"
        let own = hasBias ? tensors : tensors.filter { !$0.name.hasSuffix("attn.qkv.bias") }
        let map = isGated ? Library.evaNames : Library.evaPlainNames
        return HubLayout(
            model: "Eva", map: map.followed(by: Library.timmNames),
            config: config(
                name("vit_small_patch16_dinov3"), arguments, features: sizes.embedDim, pool: "token",
                first: "patch_embed.proj", classifier: "head", isFixed: true), own: own,
            notes: norm(sizes.normEpsilon, of: 1e-5))
    }

    // MARK: Grids

    private func swin(_ sizes: Swin.Configuration) throws -> HubLayout {
        guard !sizes.padsFirst else {
            throw ModelError(
                "timm's Swin rolls a grid before it pads it, this one after: the same only where windows of "
                    + "\(sizes.windowSize) divide every grid, which they do not at \(sizes.imageSize) pixels")
        }
        let arguments: JSONObject = [
            "img_size": .integer(sizes.imageSize), "patch_size": .integer(sizes.patchSize),
            "window_size": .integer(sizes.windowSize), "embed_dim": .integer(sizes.embedDim),
            "depths": .array(sizes.depths.map { .integer($0) }),
            "num_heads": .array(sizes.numHeads.map { .integer($0) }),
        ]
        return HubLayout(
            model: "SwinTransformer", map: Library.swin.map,
            config: config(
                name("swin_tiny_patch4_window7_224"), arguments,
                features: sizes.embedDim << (sizes.depths.count - 1), pool: "avg", first: "patch_embed.proj",
                classifier: "head.fc", isFixed: true), own: tensors)
    }

    private func convNeXt(_ sizes: ConvNeXt.Configuration) throws -> HubLayout {
        guard sizes.depths.count == 4 else {
            throw ModelError("timm's ConvNeXt has four stages, this one \(sizes.depths.count): --format hf has it")
        }
        guard sizes.patchSize != 2 else {
            throw ModelError("timm's ConvNeXt halves the grid again behind a stem of 2 pixels: --format hf does not")
        }
        let arguments: JSONObject = [
            "patch_size": .integer(sizes.patchSize), "depths": .array(sizes.depths.map { .integer($0) }),
            "dims": .array(sizes.dims.map { .integer($0) }), "kernel_sizes": .integer(sizes.kernelSize),
        ]
        return HubLayout(
            model: "ConvNeXt", map: Library.convNeXt.map,
            config: config(
                name("convnext_tiny"), arguments, features: sizes.dims[3], pool: "avg", first: "stem.0",
                classifier: "head.fc", isFixed: false), own: tensors,
            notes: norm(sizes.headNormEpsilon, of: 1e-6))
    }

    private func resNet(_ sizes: ResNet.Configuration) throws -> HubLayout {
        guard sizes.stem == .imagenet, sizes.layers.count == 4, sizes.planes[0] == 64 else {
            let stem = sizes.stem == .imagenet ? "7×7" : "3×3"
            throw ModelError(
                "timm's ResNet has a stem of 7×7 with 64 channels and four stages; this one begins with \(stem) and "
                    + "\(sizes.planes[0]) channels and has \(sizes.layers.count)")
        }
        let arguments: JSONObject = [
            "layers": .array(sizes.layers.map { .integer($0) }),
            "channels": .array(sizes.planes.map { .integer($0) }),
        ]
        let isGroup = sizes.norm == .group
        let (own, norms) = isGroup ? (tensors, []) : tensors.withBatchNorms()
        return HubLayout(
            model: "ResNet", map: Library.resNet.map,
            config: config(
                isGroup ? "resnet50_gn" : "resnet50", arguments, features: 4 * sizes.planes[3], pool: "avg",
                first: "conv1", classifier: "fc", isFixed: false), own: own,
            counters: norms.map { $0 + ".num_batches_tracked" })
    }
}
