extension SourceConvention {
    private static func like(
        _ name: String, resize: Int = 256, crop: Int = 224, bilinear: Bool = false,
        positions: PositionMethod = .antialiased, epsilon: Double = 1e-6
    ) -> SourceConvention {
        var convention = SourceConvention(name: name)
        (convention.positions, convention.normEpsilon) = (positions, epsilon)
        (convention.preprocessing.resize, convention.preprocessing.crop) = (resize, crop)
        if bilinear { convention.preprocessing.interpolation = .bilinear }
        return convention
    }

    static let timm = like("timm", resize: 256)
    static let dino = like("dino", positions: .dino)
    static let ibot = like("ibot", positions: .dino)
    static let dinov2 = like("dinov2", positions: .dino)
    /// With registers its code resamples otherwise.
    static let dinov2Registers = like("dinov2-registers")
    static let dinov3 = like("dinov3", epsilon: 1e-5)
    static let mae = like("mae", positions: .plain)
    static let mocov3 = like("mocov3", bilinear: true, positions: .computed)
    static let torchvision = like("torchvision", resize: 232, bilinear: true)
    static let transformers = like("transformers", positions: .plain)
    static let transformersRegisters = like("transformers-registers")
    static let transformersDINOv3 = like("transformers-dinov3", resize: 224, bilinear: true, epsilon: 1e-5)

    static let transformersViT: SourceConvention = {
        var convention = like("transformers-vit", resize: 224, bilinear: true, positions: .plain, epsilon: 1e-12)
        (convention.preprocessing.mean, convention.preprocessing.std) = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
        return convention
    }()

    static let transformersConvNeXt: SourceConvention = {
        var convention = like("transformers", resize: 256, bilinear: true)
        convention.headNormEpsilon = 1e-12
        return convention
    }()

    /// Those that `--source` names.
    static let choices = [timm, dino, ibot, dinov2, mae, mocov3, torchvision, transformers]

    /// Whose conventions a network follows, by what else is in the file.
    ///
    /// - Parameters:
    ///   - own: names inside the network.
    ///   - all: names of the whole file.
    ///   - members: dictionaries that it was in.
    static func recognised(
        _ library: Library, own: Set<String>, all: Set<String>, prefix: String, members: [String]
    ) -> SourceConvention {
        func has(_ part: String) -> Bool { all.contains { $0.contains(part) } }
        switch library.name {
        case "transformers ViT":
            if own.contains("embeddings.patch_embeddings.weight") { return transformersDINOv3 }
            if own.contains("embeddings.register_tokens") { return transformersRegisters }
            return own.contains { $0.hasSuffix("layer_scale1.lambda1") } ? transformers : transformersViT
        case "transformers ConvNeXt": return transformersConvNeXt
        case "transformers ResNet": return like("transformers", resize: 256, bilinear: true)
        case "transformers Swin": return like("transformers", resize: 224)
        case "torchvision": return library.family == .swin ? like("torchvision", resize: 232) : torchvision
        case "ConvNeXt": return timm
        default: break
        }
        guard library.family == .vit else { return timm }
        if own.contains("storage_tokens") { return dinov3 }
        if prefix.contains("base_encoder") || prefix.contains("momentum_encoder") { return mocov3 }
        if own.contains("register_tokens") { return dinov2Registers }
        if has("ls1.gamma"), own.contains("mask_token") || has("dino_head") { return dinov2 }
        if own.contains("masked_embed") || has("head.mlp2") || has("head.last_layer2") { return ibot }
        if has("decoder_embed") || own.contains("mask_token") { return mae }
        if has("head.last_layer") || has("head.mlp.")
            || members.contains(where: { ["teacher", "student"].contains($0) })
        {
            return dino
        }
        return timm
    }
}
