import HSSLFormats
import HSSLModels

/// A model of ours as transformers has it: ViTModel, Dinov2Model (layer scale, gates), Dinov2WithRegistersModel,
/// DINOv3ViTModel (rotary positions), SwinModel, ConvNextModel, ResNetModel (without norms).
struct TransformersLayout {
    private let architecture: ModelArchitecture
    private let preprocessing: Preprocessing
    private let tensors: [HubLayout.Own]
    private let isQuantized: Bool

    /// - Parameter isQuantized: whether linear layers become int8 codes.
    init(
        _ architecture: ModelArchitecture, _ preprocessing: Preprocessing, _ tensors: [HubLayout.Own],
        isQuantized: Bool
    ) {
        (self.architecture, self.preprocessing, self.tensors) = (architecture, preprocessing, tensors)
        self.isQuantized = isQuantized
    }

    /// - Throws: `ModelError` where transformers has no such network.
    func layout() throws -> HubLayout {
        var layout: HubLayout
        switch architecture.configuration {
        case let sizes as VisionTransformer.Configuration:
            if sizes.ropeTemperature != nil {
                layout = dinov3(sizes)
            } else if sizes.registerTokens > 0 || sizes.activation == .swiglu || sizes.layerScale && !isQuantized {
                layout = try dinov2(sizes)
                if isQuantized {
                    layout.notes.append(
                        "transformers 5.24 cannot load a quantised \(layout.model): its loader converts MLPs")
                }
            } else {
                layout = vit(sizes)
            }
        case let sizes as Swin.Configuration: layout = try swin(sizes)
        case let sizes as ConvNeXt.Configuration: layout = try convNeXt(sizes)
        case let sizes as ResNet.Configuration: layout = try resNet(sizes)
        default: throw ModelError("transformers has no \(architecture.family) that is known here")
        }
        layout.config["architectures"] = [.string(layout.model)]
        layout.processor = processor
        return layout
    }

    private func config(_ type: String, _ members: JSONObject) -> JSONObject {
        var config: JSONObject = [
            "model_type": .string(type), "num_channels": 3,
            "image_size": .integer(architecture.imageSize),
        ]
        for key in members.keys { config[key] = members[key] }
        return config
    }

    /// The shorter side, then the centre, as hssl-extract prepares images.
    private var processor: JSONValue {
        let images = preprocessing
        let crop = JSONValue.integer(images.crop)
        var object: JSONObject = [
            "image_processor_type": "BitImageProcessor", "do_resize": true,
            "size": ["shortest_edge": .integer(images.resize)],
            "resample": .integer(images.interpolation == .bilinear ? 2 : 3), "do_center_crop": true,
            "crop_size": ["height": crop, "width": crop], "do_rescale": true, "rescale_factor": .number(1 / 255.0),
            "do_normalize": true, "do_convert_rgb": true,
        ]
        object["image_mean"] = .array(images.mean.map(shortest))
        object["image_std"] = .array(images.std.map(shortest))
        return .object(object)
    }

    // MARK: Vision transformers

    private func sizes(_ sizes: VisionTransformer.Configuration) -> JSONObject {
        [
            "hidden_size": .integer(sizes.embedDim), "num_hidden_layers": .integer(sizes.depth),
            "num_attention_heads": .integer(sizes.numHeads), "patch_size": .integer(sizes.patchSize),
            "layer_norm_eps": .number(sizes.normEpsilon), "hidden_act": "gelu",
        ]
    }

    private func vit(_ sizes: VisionTransformer.Configuration) -> HubLayout {
        var members = self.sizes(sizes)
        members["intermediate_size"] = .integer(sizes.hiddenDim)
        members["qkv_bias"] = true
        members["hidden_dropout_prob"] = 0
        members["attention_probs_dropout_prob"] = 0
        // Its pooler then gives CLS as it is.
        members["pooler_act"] = "linear"
        let width = sizes.embedDim
        let identity = HubLayout.Own(name: "pooler.dense.weight", shape: [width, width]) {
            (0..<width * width).map { $0 % (width + 1) == 0 ? 1 : 0 }
        }
        return HubLayout(
            model: "ViTModel", map: Library.vitNames, spell: Library.huggingFaceViT.spell,
            config: config("vit", members),
            own: multiplied(tensors.positionsCoveringClass(sizes)),
            added: [identity, HubLayout.constant("pooler.dense.bias", [width], 0)], floats: ["pooler.dense"])
    }

    /// With layer scale multiplied into the products before it: rows of codes stay the same. transformers has no loader
    /// for a quantised Dinov2Model.
    private func multiplied(_ tensors: [HubLayout.Own]) -> [HubLayout.Own] {
        let scaled = [".attn.proj.": ".ls1.gamma", ".mlp.fc2.": ".ls2.gamma"]
        return tensors.filter { !$0.name.hasSuffix(".gamma") }.map { tensor in
            guard let (product, scale) = scaled.first(where: { tensor.name.contains($0.key) }),
                let end = tensor.name.firstRange(of: product)?.lowerBound,
                let gamma = tensors[tensor.name[..<end] + scale]
            else { return tensor }
            return HubLayout.Own(name: tensor.name, shape: tensor.shape) {
                let (factors, width) = (try gamma.values(), tensor.shape.dropFirst().reduce(1, *))
                return try tensor.values().enumerated().map { $0.element * factors[$0.offset / width] }
            }
        }
    }

    private func dinov2(_ sizes: VisionTransformer.Configuration) throws -> HubLayout {
        let isGated = sizes.activation == .swiglu, hasRegisters = sizes.registerTokens > 0
        var members = self.sizes(sizes)
        members["mlp_ratio"] = .integer(try mlpRatio(sizes))
        members["use_swiglu_ffn"] = .bool(isGated)
        members["qkv_bias"] = true
        members["hidden_dropout_prob"] = 0
        members["attention_probs_dropout_prob"] = 0
        if hasRegisters { members["num_register_tokens"] = .integer(sizes.registerTokens) }
        if !hasRegisters { members["use_mask_token"] = false }
        let map = isGated ? Library.dinov2GatedNames.followed(by: Library.dinov2Names) : Library.dinov2Names
        let model = hasRegisters ? "Dinov2WithRegistersModel" : "Dinov2Model"
        return HubLayout(
            model: model, map: map, spell: Library.huggingFaceViT.spell,
            config: config(hasRegisters ? "dinov2_with_registers" : "dinov2", members),
            own: scaled(tensors.positionsCoveringClass(sizes), sizes),
            added: hasRegisters
                ? [HubLayout.constant("embeddings.mask_token", [1, sizes.embedDim], 0)] : [])
    }

    /// transformers has whole ratios, and with gates takes two thirds of them, rounded up to a multiple of 8.
    private func mlpRatio(_ sizes: VisionTransformer.Configuration) throws -> Int {
        let width = sizes.embedDim
        let ratio = (1...64).first { ratio in
            let hidden = ratio * width
            return (sizes.activation == .swiglu ? (hidden * 2 / 3 + 7) / 8 * 8 : hidden) == sizes.hiddenDim
        }
        guard let ratio else {
            throw ModelError(
                "transformers' DINOv2 has an MLP of a whole multiple of \(width), this one has \(sizes.hiddenDim)"
                    + (sizes.activation == .swiglu ? " (with gates, of two thirds of it)" : ""))
        }
        return ratio
    }

    private func dinov3(_ sizes: VisionTransformer.Configuration) -> HubLayout {
        let isGated = sizes.activation == .swiglu
        var members = self.sizes(sizes)
        members["intermediate_size"] = .integer(sizes.hiddenDim)
        members["num_register_tokens"] = .integer(sizes.registerTokens)
        members["rope_theta"] = .number(sizes.ropeTemperature ?? 100)
        members["use_gated_mlp"] = .bool(isGated)
        if isGated { members["hidden_act"] = "silu" }
        // Keys have none in what Meta published; here they may.
        for key in ["query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias"] { members[key] = true }
        let width = sizes.embedDim
        let map = isGated ? Library.dinov3Names : Library.dinov3PlainNames.followed(by: Library.dinov3Names)
        return HubLayout(
            model: "DINOv3ViTModel", map: map, config: config("dinov3_vit", members), own: scaled(tensors, sizes),
            added: [HubLayout.constant("embeddings.mask_token", [1, 1, width], 0)]
                + (sizes.registerTokens > 0
                    ? [] : [HubLayout.constant("embeddings.register_tokens", [1, 0, width], 0)]))
    }

    /// With factors of 1 where branches are multiplied by none.
    private func scaled(_ tensors: [HubLayout.Own], _ sizes: VisionTransformer.Configuration) -> [HubLayout.Own] {
        guard !sizes.layerScale else { return tensors }
        return tensors + (0..<sizes.depth).flatMap { block in
            ["ls1", "ls2"].map { HubLayout.constant("blocks.\(block).\($0).gamma", [sizes.embedDim], 1) }
        }
    }

    // MARK: Grids

    private func swin(_ sizes: Swin.Configuration) throws -> HubLayout {
        guard sizes.padsFirst || !sizes.isPadded else {
            throw ModelError(
                "transformers' Swin pads a grid before it rolls it, this one after: the same only where windows of "
                    + "\(sizes.windowSize) divide every grid, which they do not at \(sizes.imageSize) pixels")
        }
        let members: JSONObject = [
            "patch_size": .integer(sizes.patchSize), "embed_dim": .integer(sizes.embedDim),
            "depths": .array(sizes.depths.map { .integer($0) }),
            "num_heads": .array(sizes.numHeads.map { .integer($0) }), "window_size": .integer(sizes.windowSize),
            "mlp_ratio": 4, "qkv_bias": true, "hidden_act": "gelu", "layer_norm_eps": .number(1e-5),
        ]
        return HubLayout(
            model: "SwinModel", map: Library.huggingFaceSwin.map, spell: Library.huggingFaceSwin.spell,
            config: config("swin", members), own: tensors)
    }

    private func convNeXt(_ sizes: ConvNeXt.Configuration) throws -> HubLayout {
        guard sizes.kernelSize == 7 else {
            throw ModelError("transformers' ConvNeXt has kernels of 7, this one of \(sizes.kernelSize)")
        }
        let members: JSONObject = [
            "patch_size": .integer(sizes.patchSize), "num_stages": .integer(sizes.depths.count),
            "depths": .array(sizes.depths.map { .integer($0) }),
            "hidden_sizes": .array(sizes.dims.map { .integer($0) }), "hidden_act": "gelu",
            "layer_norm_eps": .number(sizes.headNormEpsilon),
        ]
        return HubLayout(
            model: "ConvNextModel", map: Library.huggingFaceConvNeXt.map, spell: Library.huggingFaceConvNeXt.spell,
            config: config("convnext", members), own: tensors)
    }

    private func resNet(_ sizes: ResNet.Configuration) throws -> HubLayout {
        guard sizes.norm == .none else {
            throw ModelError(
                "transformers' ResNet has batch norms, this one group norms, which depend on the image and cannot "
                + "become batch norms: --format timm or hssl")
        }
        guard sizes.stem == .imagenet else {
            throw ModelError("transformers' ResNet has a stem of 7×7, this one 3×3")
        }
        let (own, norms) = tensors.withBatchNorms()
        let members: JSONObject = [
            "embedding_size": .integer(sizes.planes[0]), "depths": .array(sizes.layers.map { .integer($0) }),
            "hidden_sizes": .array(sizes.planes.map { .integer(4 * $0) }), "layer_type": "bottleneck",
            "hidden_act": "relu", "downsample_in_first_stage": false, "downsample_in_bottleneck": false,
        ]
        let spell = Library.huggingFaceResNet.spell
        return HubLayout(
            model: "ResNetModel", map: Library.huggingFaceResNet.map, spell: spell, config: config("resnet", members),
            own: own, counters: norms.map { spell($0 + ".num_batches_tracked") })
    }
}
