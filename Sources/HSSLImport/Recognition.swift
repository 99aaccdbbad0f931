import HSSLFormats
import HSSLModels

/// The sizes of a foreign network, from names and shapes, and from `config.json` what they do not tell.
struct Recognition {
    let network: ForeignNetwork
    let hub: HubConfiguration
    /// Of `--architecture`.
    let wanted: String?
    /// Of `--image-size`.
    let wantedSize: Int?
    /// What was assumed, for the report.
    private(set) var notes: [String] = []
    /// Pixels a side that the network was made for.
    private(set) var nativeSize = 224

    init(_ network: ForeignNetwork, _ hub: HubConfiguration, architecture: String?, imageSize: Int?) {
        (self.network, self.hub, wanted, wantedSize) = (network, hub, architecture, imageSize)
    }

    mutating func architecture() throws -> ModelArchitecture {
        let configuration: any BaseConfiguration
        switch network.library.family {
        case .vit: configuration = try vit()
        case .swin: configuration = try swin()
        case .convnext: configuration = try convNeXt()
        case .resnet: configuration = try resNet()
        }
        let architecture: ModelArchitecture
        do {
            architecture = try ModelArchitecture(recognising: configuration)
        } catch {
            throw network.fault("\(error)\(wantedSize == nil ? "" : " (--image-size)")")
        }
        if let wanted { try check(architecture, against: wanted) }
        return architecture
    }

    /// Names the first size in which the network differs from the wanted architecture.
    private func check(_ found: ModelArchitecture, against name: String) throws {
        let preset = try preset(name)
        guard type(of: preset).family == found.family else {
            throw ImportError(
                "--architecture \(name): \(oneLine(network.path)) holds a network of family \(found.family)")
        }
        let own = Dictionary(found.configuration.json.map { ($0.key, $0.value) }) { first, _ in first }
        // What a norm adds to its variance is the source's affair.
        let free = ["norm_eps", "head_norm_eps"]
        for (key, value) in preset.json where own[key] != value && !free.contains(key) {
            let there = own[key].map { $0.text() } ?? "absent"
            throw ImportError(
                "--architecture \(name): its \(key) is \(value.text()), that of \(oneLine(network.path)) is \(there)")
        }
        if let extra = found.configuration.json.first(where: { member in
            !free.contains(member.key) && !preset.json.contains { $0.key == member.key }
        }) {
            throw ImportError(
                "--architecture \(name): it has no \(extra.key), \(oneLine(network.path)) has \(extra.value.text())")
        }
    }

    /// The sizes of a named architecture over this network's patches; they need not fit.
    private func preset(_ name: String) throws -> any BaseConfiguration {
        guard let family = BaseFamilies.all.first(where: { $0.presets.contains(name) }) else {
            throw ImportError("--architecture: unknown architecture '\(oneLine(name))'")
        }
        let patch = family.family == "vit" ? try? network.shape("patch_embed.proj.weight").last : nil
        return try family.preset(name, imageSize: wantedSize ?? nativeSize, patchSize: patch)
    }

    private func kernel(_ name: String, channels: Int = 3) throws -> (outputs: Int, side: Int) {
        let shape = try network.shape(name)
        guard shape.count == 4, shape[1] == channels, shape[2] == shape[3], shape[2] > 0 else {
            throw network.fault("tensor '\(network.foreignName(name))' has shape \(shape), not [D, \(channels), k, k]")
        }
        return (shape[0], shape[2])
    }

    private func size(_ name: String, axis: Int) throws -> Int {
        let shape = try network.shape(name)
        guard axis < shape.count, shape[axis] > 0 else {
            throw network.fault("tensor '\(network.foreignName(name))' has shape \(shape), which has no axis \(axis)")
        }
        return shape[axis]
    }

    private func depth(_ pattern: String) throws -> Int {
        let depth = network.count(pattern)
        guard depth > 0 else { throw network.fault("tensor '\(pattern.replacing("#", with: "0"))' is missing") }
        return depth
    }

    private mutating func assumeSize(_ assumed: Int) throws {
        if let stated = try hub.imageSize() {
            nativeSize = stated
        } else {
            nativeSize = assumed
            if wantedSize == nil { notes.append("image size \(assumed) is assumed: nothing states it (--image-size)") }
        }
    }

    // MARK: Vision transformers

    private mutating func vit() throws -> VisionTransformer.Configuration {
        let (width, patch) = try kernel("patch_embed.proj.weight")
        let hidden = try size("blocks.0.mlp.fc2.weight", axis: 1)
        let rows = try size("blocks.0.mlp.fc1.weight", axis: 0)
        let isGated = rows == 2 * hidden
        let registers = network.has("reg_token") ? try size("reg_token", axis: 1) : 0
        var coversClass = false
        if network.has("pos_embed") {
            let positions = try size("pos_embed", axis: 1)
            guard let (side, hasClass) = Self.grid(positions) else {
                throw network.fault(
                    "tensor '\(network.foreignName("pos_embed"))' has \(positions) rows, "
                    + "which are no square grid, with or without CLS"
                )
            }
            nativeSize = side * patch
            // Registers have no positions; that of CLS becomes part of CLS.
            coversClass = hasClass && registers == 0
        } else {
            guard network.isRotary else {
                throw network.fault("tensor 'pos_embed' is missing, and nothing says that its positions are rotary")
            }
            try assumeSize(224)
        }
        var sizes = VisionTransformer.Configuration(
            imageSize: wantedSize ?? nativeSize, patchSize: patch, embedDim: width,
            depth: try depth("blocks.#.norm1.weight"), numHeads: try heads(width, patch: patch))
        sizes.mlpRatio = Double(hidden) / Double(width)
        sizes.activation = isGated ? .swiglu : .gelu
        sizes.layerScale = network.has("blocks.0.ls1.gamma")
        (sizes.registerTokens, sizes.positionsCoverClass) = (registers, coversClass)
        sizes.normEpsilon = try hub.number("layer_norm_eps")
            ?? (network.isRotary ? 1e-5 : network.convention.normEpsilon)
        if !network.has("pos_embed") { sizes.ropeTemperature = try hub.number("rope_theta") ?? 100 }
        if let name = hub.text("hidden_act") {
            // transformers' DINOv2 gates with SiLU whatever this says.
            let isPlain = name == "gelu"
            let isDINOv3 = network.library.name == "transformers ViT" && sizes.ropeTemperature != nil
            guard isGated ? (!isDINOv3 || name == "silu" || name == "swish") : isPlain else {
                throw network.fault(
                    "config.json: hidden_act \(oneLine(name)) is not supported (gelu; silu where there is a gate)")
            }
        }
        return sizes
    }

    /// Patches a side, and whether there is a row for CLS.
    static func grid(_ rows: Int) -> (side: Int, hasClass: Bool)? {
        func root(_ n: Int) -> Int? {
            let root = Int(Double(n).squareRoot().rounded())
            return root > 0 && root * root == n ? root : nil
        }
        if let side = root(rows - 1) { return (side, true) }
        return root(rows).map { ($0, false) }
    }

    private mutating func heads(_ width: Int, patch: Int) throws -> Int {
        if let wanted, case let preset as VisionTransformer.Configuration = try preset(wanted) {
            return preset.numHeads
        }
        if let stated = try hub.integer("num_attention_heads") ?? hub.integer("num_heads") { return stated }
        let known: Int?
        switch (network.convention.name, width) {
        case ("mocov3", 384): known = 12
        case (_, 1280): known = network.has("pos_embed") ? 16 : 20
        case (_, 192), (_, 384), (_, 768), (_, 1024), (_, 1536): known = width / 64
        default: known = nil
        }
        guard let known else {
            throw network.fault(
                "names and shapes do not tell how many heads there are in a width of \(width); give --architecture, "
                + "or put config.json beside the file"
            )
        }
        notes.append("\(known) heads are assumed, as published for a width of \(width) (--architecture)")
        return known
    }

    // MARK: Grids

    private mutating func swin() throws -> Swin.Configuration {
        let (width, patch) = try kernel("patch_embed.proj.weight")
        let stages = try depth("layers.#.blocks.0.norm1.weight")
        let tables = try (0..<stages).map {
            try network.shape("layers.\($0).blocks.0.attn.relative_position_bias_table")
        }
        guard let first = tables.first, tables.allSatisfy({ $0.count == 2 }), let (side, _) = Self.grid(first[0] + 1),
            side * side == first[0], side % 2 == 1
        else { throw network.fault("its tables of relative positions are none: \(tables)") }
        let window = (side + 1) / 2
        try assumeSize(window == 12 ? 384 : 32 * window)
        var sizes = Swin.Configuration(
            imageSize: wantedSize ?? nativeSize, patchSize: patch, embedDim: width,
            depths: try (0..<stages).map { try depth("layers.\($0).blocks.#.norm1.weight") },
            numHeads: tables.map { $0[1] }, windowSize: window)
        // timm pads what it has rolled, the others roll what they have padded.
        sizes.padsFirst = network.library.name != "timm" && sizes.isPadded
        return sizes
    }

    private mutating func convNeXt() throws -> ConvNeXt.Configuration {
        let (_, patch) = try kernel("stem.0.weight")
        let stages = try depth("stages.#.blocks.0.norm.weight")
        try assumeSize(224)
        var sizes = ConvNeXt.Configuration(
            imageSize: wantedSize ?? nativeSize, patchSize: patch,
            depths: try (0..<stages).map { try depth("stages.\($0).blocks.#.norm.weight") },
            dims: try (0..<stages).map { try size("stages.\($0).blocks.0.norm.weight", axis: 0) },
            kernelSize: try kernel("stages.0.blocks.0.conv_dw.weight", channels: 1).side)
        sizes.headNormEpsilon = try hub.number("layer_norm_eps") ?? network.convention.headNormEpsilon
        return sizes
    }

    private mutating func resNet() throws -> ResNet.Configuration {
        guard network.has("layer1.0.conv3.weight") else {
            throw network.fault(
                "its blocks are basic ones of two convolutions; only bottlenecks of three are supported")
        }
        // timm's resnet50_gn; transformers' ResNet has batch norms only.
        let isGroup = !network.has("bn1.running_mean")
        guard !isGroup || network.library.name != Library.huggingFaceResNet.name else {
            throw network.fault("its batch norms have no running statistics")
        }
        if isGroup { notes.append("norms without running statistics are taken as group norms of 32 groups") }
        let stem = try kernel("conv1.weight")
        guard stem.side == 7 else {
            throw network.fault("its first convolution is \(stem.side)×\(stem.side); only 7×7 is supported")
        }
        if hub.flag("downsample_in_bottleneck") == true {
            throw network.fault(
                "config.json: downsample_in_bottleneck: strides in the 1×1 convolutions are not supported")
        }
        if hub.flag("downsample_in_first_stage") == true {
            throw network.fault("config.json: downsample_in_first_stage is not supported")
        }
        try assumeSize(224)
        let stages = (1...8).prefix { network.has("layer\($0).0.conv1.weight") }
        return ResNet.Configuration(
            imageSize: wantedSize ?? nativeSize, stem: .imagenet,
            planes: try stages.map { try size("layer\($0).0.conv1.weight", axis: 0) },
            layers: try stages.map { try depth("layer\($0).#.conv1.weight") }, norm: isGroup ? .group : .none)
    }
}
