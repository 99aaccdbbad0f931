import HSSLFormats

/// A library or an official repository whose names are known: how they are recognised, what ours they are, and what
/// its own code does with images and positions.
struct Library: Sendable {
    /// For messages and `--source`.
    let name: String
    let family: Family
    /// Names that such a network has, after its prefix.
    let anchors: [String]
    /// The names as the map has them: old spellings, numbered sequences.
    var normalise: @Sendable (_ name: String) -> String = { $0 }
    /// The other way: what the map gives for a name of ours as the library writes it.
    var spell: @Sendable (_ name: String) -> String = { $0 }
    let map: NameMap

    enum Family: String { case vit, swin, convnext, resnet }
}

/// What the source of a network does besides its layers; some libraries share their names.
struct SourceConvention: Sendable {
    /// For messages and `--source`.
    let name: String
    var positions = PositionMethod.antialiased
    var normEpsilon = 1e-6
    var headNormEpsilon = 1e-6
    var preprocessing = ForeignPreprocessing()

    /// How it brings positions to another grid.
    enum PositionMethod: String, Sendable {
        case dino = "bicubic with DINO's offset of 0.1, without antialiasing"
        case plain = "bicubic to the size, without antialiasing"
        case antialiased = "bicubic to the size, antialiased"
        case computed = "sines and cosines computed anew"
    }
}

/// Resize and crop for the size that the numbers were given at.
struct ForeignPreprocessing: Sendable, Equatable {
    var resize = 256
    var crop = 224
    var interpolation = Preprocessing.Interpolation.bicubic
    var mean: [Double] = [0.485, 0.456, 0.406]
    var std: [Double] = [0.229, 0.224, 0.225]
    /// Where this was read; nil: the source's defaults.
    var file: String?
}

extension Library {
    static let all = [
        vit, huggingFaceViT, swin, huggingFaceSwin, torchvisionSwin, convNeXt, officialConvNeXt,
        huggingFaceConvNeXt, torchvisionConvNeXt, resNet, huggingFaceResNet,
    ]

    private static func split(_ name: String) -> [Substring] {
        name.split(separator: ".", omittingEmptySubsequences: false)
    }

    // MARK: Vision transformers

    /// timm and the official code of DINO, iBOT, DINOv2, DINOv3, MAE and MoCo v3, which all began with timm's ViT.
    static let vit = Library(
        name: "timm", family: .vit, anchors: ["patch_embed.proj.weight", "cls_token"],
        normalise: { name in
            // DINOv2 trains in chunks: blocks.CHUNK.BLOCK.
            let parts = split(name)
            guard parts.count > 3, parts[0] == "blocks", Int(parts[1]) != nil, Int(parts[2]) != nil else { return name }
            return (["blocks"] + parts[2...]).joined(separator: ".")
        },
        map: evaNames.followed(by: timmNames))

    static let timmNames = NameMap(
        same: [
            "cls_token", "pos_embed", "reg_token", "patch_embed.proj.*", "blocks.#.norm1.*", "blocks.#.norm2.*",
            "blocks.#.attn.qkv.weight", "blocks.#.attn.qkv.bias", "blocks.#.attn.proj.*", "blocks.#.mlp.fc1.*",
            "blocks.#.mlp.fc2.*", "blocks.#.ls1.gamma", "blocks.#.ls2.gamma", "norm.*",
        ],
        renamed: [
            ("register_tokens", "reg_token"), ("storage_tokens", "reg_token"),
            ("blocks.#.mlp.w12.*", "blocks.$1.mlp.fc1.$2"), ("blocks.#.mlp.w3.*", "blocks.$1.mlp.fc2.$2"),
        ],
        parts: [
            ("blocks.#.mlp.w1.*", "blocks.$1.mlp.fc1.$2", 0, 2), ("blocks.#.mlp.w2.*", "blocks.$1.mlp.fc1.$2", 1, 2),
        ],
        left: [
            "mask_token", "masked_embed", "head.**", "head_dist.**", "fc.**", "decoder_embed.**", "decoder_blocks.**",
            "decoder_norm.**", "decoder_pred.**", "decoder_pos_embed", "predictor.**", "rope_embed.periods",
            "rope.**", "local_cls_norm.**", "blocks.#.attn.qkv.bias_mask", "blocks.#.attn.k_bias",
            "dino_head.**", "ibot_head.**",
        ])

    /// What timm's EVA, which its DINOv3 is, calls otherwise. Its keys have no bias.
    static let evaPlainNames = NameMap(
        renamed: [("blocks.#.gamma_1", "blocks.$1.ls1.gamma"), ("blocks.#.gamma_2", "blocks.$1.ls2.gamma")],
        parts: [
            ("blocks.#.attn.q_bias", "blocks.$1.attn.qkv.bias", 0, 3),
            ("blocks.#.attn.v_bias", "blocks.$1.attn.qkv.bias", 2, 3),
        ])

    /// With gates, which are tensors of their own.
    static let evaNames = NameMap(parts: [
        ("blocks.#.mlp.fc1_g.*", "blocks.$1.mlp.fc1.$2", 0, 2), ("blocks.#.mlp.fc1_x.*", "blocks.$1.mlp.fc1.$2", 1, 2),
    ]).followed(by: evaPlainNames)

    static let huggingFaceViT = Library(
        name: "transformers ViT", family: .vit, anchors: ["embeddings.cls_token"],
        normalise: { name in
            var parts = split(name)
            if parts.count > 2, parts[0] == "encoder" || parts[0] == "model" { parts.removeFirst() }
            if parts[0] == "layers" { parts[0] = "layer" }
            return parts.joined(separator: ".")
        },
        spell: { $0.hasPrefix("layer.") ? "encoder." + $0 : $0 },
        map: dinov3Names.followed(by: dinov2Names).followed(by: vitNames).followed(by: laterNames))

    private static let attentionOutput = [
        ("layer.#.attention.output.dense.*", "blocks.$1.attn.proj.$2"), ("layernorm.*", "norm.$1"),
    ]
    private static let embeddings = [
        ("embeddings.cls_token", "cls_token"), ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.register_tokens", "reg_token"),
    ]
    private static let leftByTransformers = [
        "embeddings.mask_token", "pooler.**", "classifier.**", "rope_embeddings.**", "decoder.**",
    ]

    /// As `save_pretrained` writes a ViTModel.
    static let vitNames = NameMap(
        renamed: embeddings + attentionOutput + [
            ("embeddings.patch_embeddings.projection.*", "patch_embed.proj.$1"),
            ("layer.#.layernorm_before.*", "blocks.$1.norm1.$2"), ("layer.#.layernorm_after.*", "blocks.$1.norm2.$2"),
            ("layer.#.intermediate.dense.*", "blocks.$1.mlp.fc1.$2"),
            ("layer.#.output.dense.*", "blocks.$1.mlp.fc2.$2"),
        ],
        parts: queriesKeysValues("layer.#.attention", "blocks.$1.attn", last: 2, .nested), left: leftByTransformers)

    /// As it writes a Dinov2Model, or one with registers.
    static let dinov2Names = NameMap(
        renamed: embeddings + attentionOutput + layersOfDINO + [
            ("embeddings.patch_embeddings.projection.*", "patch_embed.proj.$1"),
            ("layer.#.mlp.fc1.*", "blocks.$1.mlp.fc1.$2"), ("layer.#.mlp.fc2.*", "blocks.$1.mlp.fc2.$2"),
        ],
        parts: queriesKeysValues("layer.#.attention", "blocks.$1.attn", last: 2, .nested), left: leftByTransformers)

    /// Where a Dinov2Model has gates.
    static let dinov2GatedNames = NameMap(renamed: [
        ("layer.#.mlp.weights_in.*", "blocks.$1.mlp.fc1.$2"), ("layer.#.mlp.weights_out.*", "blocks.$1.mlp.fc2.$2"),
    ])

    /// As it writes a DINOv3ViTModel with gates. Without, `up_proj` is the first layer whole: `Recognition` sees which.
    static let dinov3Names = NameMap(
        same: ["norm.*"],
        renamed: embeddings + layersOfDINO + [
            ("embeddings.patch_embeddings.*", "patch_embed.proj.$1"),
            ("layer.#.attention.o_proj.*", "blocks.$1.attn.proj.$2"),
            ("layer.#.mlp.down_proj.*", "blocks.$1.mlp.fc2.$2"),
        ],
        parts: queriesKeysValues("layer.#.attention", "blocks.$1.attn", last: 2, .projections) + [
            ("layer.#.mlp.gate_proj.*", "blocks.$1.mlp.fc1.$2", 0, 2),
            ("layer.#.mlp.up_proj.*", "blocks.$1.mlp.fc1.$2", 1, 2),
        ], left: leftByTransformers)

    /// Where a DINOv3ViTModel has none.
    static let dinov3PlainNames = NameMap(renamed: [("layer.#.mlp.up_proj.*", "blocks.$1.mlp.fc1.$2")])

    private static let layersOfDINO = [
        ("layer.#.norm1.*", "blocks.$1.norm1.$2"), ("layer.#.norm2.*", "blocks.$1.norm2.$2"),
        ("layer.#.layer_scale1.lambda1", "blocks.$1.ls1.gamma"),
        ("layer.#.layer_scale2.lambda1", "blocks.$1.ls2.gamma"),
    ]

    /// Other spellings of other versions.
    private static let laterNames = dinov2GatedNames.followed(
        by: NameMap(parts: queriesKeysValues("layer.#.attention", "blocks.$1.attn", last: 2, .own)))

    /// How transformers calls the three products before attention: `attention.query`, `self.query`, `q_proj`.
    private enum ProductSpelling { case nested, own, projections }

    private static func queriesKeysValues(
        _ module: String, _ target: String, last: Int, _ spelling: ProductSpelling
    ) -> [(String, String, Int, Int)] {
        [("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")].enumerated().map { part, names in
            let name =
                switch spelling {
                case .nested: "attention.\(names.0)"
                case .own: "self.\(names.0)"
                case .projections: names.1
                }
            return ("\(module).\(name).*", "\(target).qkv.$\(last)", part, 3)
        }
    }

    // MARK: Swin

    private static let swinMap = NameMap(
        same: [
            "patch_embed.proj.*", "patch_embed.norm.*", "layers.#.blocks.#.norm1.*", "layers.#.blocks.#.norm2.*",
            "layers.#.blocks.#.attn.qkv.*", "layers.#.blocks.#.attn.proj.*",
            "layers.#.blocks.#.attn.relative_position_bias_table", "layers.#.blocks.#.mlp.fc1.*",
            "layers.#.blocks.#.mlp.fc2.*", "layers.#.downsample.norm.*", "layers.#.downsample.reduction.weight",
            "norm.*",
        ],
        left: [
            "layers.#.blocks.#.attn.relative_position_index", "layers.#.blocks.#.attn_mask", "head.**", "mask_token",
        ])

    static let swin = Library(
        name: "timm", family: .swin, anchors: ["patch_embed.proj.weight", "layers.0.blocks.0.norm1.weight"],
        map: swinMap)

    static let torchvisionSwin = Library(
        name: "torchvision", family: .swin, anchors: ["features.0.2.weight", "features.1.0.attn.qkv.weight"],
        normalise: { name in
            let parts = split(name)
            guard parts.count > 2, parts[0] == "features", let place = Int(parts[1]), place < 100 else { return name }
            if place == 0 {
                let module = ["0": "proj", "2": "norm"][parts[2]] ?? String(parts[2])
                return (["patch_embed", module] + parts[3...].map(String.init)).joined(separator: ".")
            }
            if place % 2 == 0 {
                return (["layers", "\(place / 2)", "downsample"] + parts[2...]).joined(separator: ".")
            }
            return (["layers", "\(place / 2)", "blocks"] + parts[2...]).joined(separator: ".")
                .replacing(".mlp.0.", with: ".mlp.fc1.").replacing(".mlp.3.", with: ".mlp.fc2.")
        }, map: swinMap)

    static let huggingFaceSwin = Library(
        name: "transformers Swin", family: .swin,
        anchors: ["embeddings.patch_embeddings.projection.weight", "embeddings.norm.weight"],
        normalise: { name in
            var parts = split(name)
            if parts.count > 2, parts[0] == "encoder" { parts.removeFirst() }
            return downsampleAfterStage(parts.joined(separator: "."))
        },
        spell: { name in
            guard name.hasPrefix("layers.") else { return name }
            return "encoder." + movedDownsample(name, by: -1)
        },
        map: NameMap(
            renamed: [
                ("embeddings.patch_embeddings.projection.*", "patch_embed.proj.$1"),
                ("embeddings.norm.*", "patch_embed.norm.$1"), ("layernorm.*", "norm.$1"),
                ("layers.#.blocks.#.layernorm_before.*", "layers.$1.blocks.$2.norm1.$3"),
                ("layers.#.blocks.#.layernorm_after.*", "layers.$1.blocks.$2.norm2.$3"),
                ("layers.#.blocks.#.attention.output.dense.*", "layers.$1.blocks.$2.attn.proj.$3"),
                ("layers.#.blocks.#.attention.o_proj.*", "layers.$1.blocks.$2.attn.proj.$3"),
                (
                    "layers.#.blocks.#.attention.self.relative_position_bias_table",
                    "layers.$1.blocks.$2.attn.relative_position_bias_table"
                ),
                (
                    "layers.#.blocks.#.attention.relative_position_bias_table",
                    "layers.$1.blocks.$2.attn.relative_position_bias_table"
                ),
                (
                    "layers.#.blocks.#.attention.relative_position_bias.relative_position_bias_table",
                    "layers.$1.blocks.$2.attn.relative_position_bias_table"
                ),
                ("layers.#.blocks.#.intermediate.dense.*", "layers.$1.blocks.$2.mlp.fc1.$3"),
                ("layers.#.blocks.#.output.dense.*", "layers.$1.blocks.$2.mlp.fc2.$3"),
                ("layers.#.blocks.#.mlp.fc1.*", "layers.$1.blocks.$2.mlp.fc1.$3"),
                ("layers.#.blocks.#.mlp.fc2.*", "layers.$1.blocks.$2.mlp.fc2.$3"),
                ("layers.#.downsample.norm.*", "layers.$1.downsample.norm.$2"),
                ("layers.#.downsample.reduction.weight", "layers.$1.downsample.reduction.weight"),
            ],
            parts: queriesKeysValues("layers.#.blocks.#.attention", "layers.$1.blocks.$2.attn", last: 3, .own)
                + queriesKeysValues("layers.#.blocks.#.attention", "layers.$1.blocks.$2.attn", last: 3, .projections),
            left: [
                "layers.#.blocks.#.attention.self.relative_position_index", "embeddings.mask_token", "pooler.**",
                "layers.#.blocks.#.attention.relative_position_index", "classifier.**", "decoder.**",
                "layers.#.blocks.#.attention.relative_position_bias.relative_position_index",
            ]))

    /// A stage's end there is the next stage's beginning here.
    static func downsampleAfterStage(_ name: String) -> String { movedDownsample(name, by: 1) }

    private static func movedDownsample(_ name: String, by step: Int) -> String {
        var parts = split(name).map(String.init)
        guard parts.count > 3, parts[0] == "layers", parts[2] == "downsample", let stage = Int(parts[1]), stage < 100
        else {
            return name
        }
        parts[1] = "\(stage + step)"
        return parts.joined(separator: ".")
    }

    // MARK: ConvNeXt

    private static let convNeXtMap = NameMap(
        same: [
            "stem.0.*", "stem.1.*", "stages.#.downsample.0.*", "stages.#.downsample.1.*", "stages.#.blocks.#.conv_dw.*",
            "stages.#.blocks.#.norm.*", "stages.#.blocks.#.mlp.fc1.*", "stages.#.blocks.#.mlp.fc2.*",
            "stages.#.blocks.#.gamma", "head.norm.*",
        ],
        left: ["head.fc.**", "classifier.2.*", "head.weight", "head.bias", "mask_token"])

    static let convNeXt = Library(
        name: "timm", family: .convnext, anchors: ["stem.0.weight", "stages.0.blocks.0.conv_dw.weight"],
        map: convNeXtMap)

    static let torchvisionConvNeXt = Library(
        name: "torchvision", family: .convnext, anchors: ["features.0.1.weight", "features.1.0.block.0.weight"],
        normalise: { name in
            let parts = split(name).map(String.init)
            if name.hasPrefix("classifier.0.") { return "head.norm." + name.dropFirst("classifier.0.".count) }
            guard parts.count > 2, parts[0] == "features", let place = Int(parts[1]), place < 100 else { return name }
            if place == 0 { return (["stem"] + parts[2...]).joined(separator: ".") }
            if place % 2 == 0 {
                return (["stages", "\(place / 2)", "downsample"] + parts[2...]).joined(separator: ".")
            }
            var rest = parts[3...].joined(separator: ".")
            for (from, to) in [
                ("block.0.", "conv_dw."), ("block.2.", "norm."), ("block.3.", "mlp.fc1."), ("block.5.", "mlp.fc2."),
            ]
            where rest.hasPrefix(from) { rest = to + rest.dropFirst(from.count) }
            if rest == "layer_scale" { rest = "gamma" }
            return "stages.\(place / 2).blocks.\(parts[2]).\(rest)"
        }, map: convNeXtMap)

    static let officialConvNeXt = Library(
        name: "ConvNeXt", family: .convnext, anchors: ["downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"],
        map: NameMap(
            renamed: [
                ("downsample_layers.0.#.*", "stem.$1.$2"), ("downsample_layers.#.#.*", "stages.$1.downsample.$2.$3"),
                ("stages.#.#.dwconv.*", "stages.$1.blocks.$2.conv_dw.$3"),
                ("stages.#.#.norm.*", "stages.$1.blocks.$2.norm.$3"),
                ("stages.#.#.pwconv1.*", "stages.$1.blocks.$2.mlp.fc1.$3"),
                ("stages.#.#.pwconv2.*", "stages.$1.blocks.$2.mlp.fc2.$3"),
                ("stages.#.#.gamma", "stages.$1.blocks.$2.gamma"), ("norm.*", "head.norm.$1"),
            ], left: ["head.**", "mask_token"]))

    static let huggingFaceConvNeXt = Library(
        name: "transformers ConvNeXt", family: .convnext,
        anchors: ["embeddings.patch_embeddings.weight", "embeddings.layernorm.weight"],
        normalise: { name in name.hasPrefix("encoder.") ? String(name.dropFirst("encoder.".count)) : name },
        spell: { $0.hasPrefix("stages.") ? "encoder." + $0 : $0 },
        map: NameMap(
            renamed: [
                ("embeddings.patch_embeddings.*", "stem.0.$1"), ("embeddings.layernorm.*", "stem.1.$1"),
                ("stages.#.downsampling_layer.#.*", "stages.$1.downsample.$2.$3"),
                ("stages.#.layers.#.dwconv.*", "stages.$1.blocks.$2.conv_dw.$3"),
                ("stages.#.layers.#.layernorm.*", "stages.$1.blocks.$2.norm.$3"),
                ("stages.#.layers.#.pwconv1.*", "stages.$1.blocks.$2.mlp.fc1.$3"),
                ("stages.#.layers.#.pwconv2.*", "stages.$1.blocks.$2.mlp.fc2.$3"),
                ("stages.#.layers.#.layer_scale_parameter", "stages.$1.blocks.$2.gamma"),
                ("layernorm.*", "head.norm.$1"),
            ], left: ["classifier.**"]))

    // MARK: ResNet

    private static let resNetMap = NameMap(
        same: [
            "conv1.weight", "bn1.*", "layer1.#.*.*", "layer2.#.*.*", "layer3.#.*.*", "layer4.#.*.*",
            "layer1.#.downsample.#.*", "layer2.#.downsample.#.*", "layer3.#.downsample.#.*", "layer4.#.downsample.#.*",
        ], left: ["fc.**", "head.**"])

    /// timm, torchvision and what was trained with either.
    static let resNet = Library(
        name: "torchvision", family: .resnet, anchors: ["conv1.weight", "layer1.0.conv1.weight"], map: resNetMap)

    static let huggingFaceResNet = Library(
        name: "transformers ResNet", family: .resnet, anchors: ["embedder.embedder.convolution.weight"],
        normalise: { name in
            var parts = split(name).map(String.init)
            if name.hasPrefix("embedder.embedder.convolution.") { return "conv1." + parts[3...].joined(separator: ".") }
            if name.hasPrefix("embedder.embedder.normalization.") { return "bn1." + parts[3...].joined(separator: ".") }
            guard parts.count > 6, parts[0] == "encoder", parts[1] == "stages", let stage = Int(parts[2]), stage < 100,
                let kind = ["convolution": ("conv", "0"), "normalization": ("bn", "1")][parts[parts.count - 2]]
            else { return name }
            let block = "layer\(stage + 1).\(parts[4])"
            if parts[5] == "shortcut" { return "\(block).downsample.\(kind.1).\(parts.removeLast())" }
            guard parts.count == 9, let layer = Int(parts[6]), layer < 100 else { return name }
            return "\(block).\(kind.0)\(layer + 1).\(parts[8])"
        },
        spell: { name in
            let parts = split(name)
            func module(_ part: Substring) -> String { part.hasPrefix("bn") ? "normalization" : "convolution" }
            if parts.count == 2 { return "embedder.embedder.\(module(parts[0])).\(parts[1])" }
            guard parts.count > 3, parts[0].hasPrefix("layer"), let stage = Int(parts[0].dropFirst(5)) else {
                return name
            }
            let block = "encoder.stages.\(stage - 1).layers.\(parts[1])"
            if parts[2] == "downsample" {
                return "\(block).shortcut.\(parts[3] == "1" ? "normalization" : "convolution").\(parts[4])"
            }
            guard let layer = parts[2].last?.wholeNumberValue else { return name }
            return "\(block).layer.\(layer - 1).\(module(parts[2])).\(parts[3])"
        }, map: resNetMap)
}
