import HSSLGraph

/// What a base model is: its family and sizes, as stored in a model file's `hssl.architecture`.
public struct ModelArchitecture: Equatable, Sendable {
    /// e.g. `vit`.
    public var family: String
    /// e.g. `vit_small`; `custom` where no named architecture fits.
    public var name: String
    public var imageSize: Int
    public var patchSize: Int
    public var embedDim: Int
    public var depth: Int
    public var numHeads: Int
    public var channels = 3

    /// The shapes known by name: width, depth, heads.
    private static let table: [(name: String, embedDim: Int, depth: Int, numHeads: Int)] = [
        ("vit_nano", 96, 4, 3),
        ("vit_tiny", 192, 12, 3),
        ("vit_small", 384, 12, 6),
        ("vit_base", 768, 12, 12),
        ("vit_large", 1024, 24, 16),
    ]

    public static var names: [String] { table.map(\.name) }

    /// A named architecture for an image and patch size.
    public init(named name: String, imageSize: Int, patchSize: Int) throws {
        guard let row = Self.table.first(where: { $0.name == name }) else {
            throw ModelError("unknown architecture '\(name)' (known: \(Self.names.joined(separator: ", ")))")
        }
        try self.init(family: "vit", name: name, imageSize: imageSize, patchSize: patchSize, embedDim: row.embedDim, depth: row.depth, numHeads: row.numHeads)
    }

    public init(family: String, name: String, imageSize: Int, patchSize: Int, embedDim: Int, depth: Int, numHeads: Int, channels: Int = 3) throws {
        self.family = family
        self.name = name
        self.imageSize = imageSize
        self.patchSize = patchSize
        self.embedDim = embedDim
        self.depth = depth
        self.numHeads = numHeads
        self.channels = channels
        try validate()
    }

    /// Bounds that keep every later product far from overflow.
    private func validate() throws {
        guard family == "vit" else { throw ModelError("unknown model family '\(family)' (known: vit)") }
        let bounds: [(String, Int, ClosedRange<Int>)] = [
            ("image_size", imageSize, 1...16_384), ("patch_size", patchSize, 1...1_024), ("embed_dim", embedDim, 1...16_384),
            ("depth", depth, 1...512), ("num_heads", numHeads, 1...1_024), ("in_chans", channels, 3...3),
        ]
        for (key, value, range) in bounds where !range.contains(value) {
            throw ModelError("\(key) \(value) is not in \(range.lowerBound) … \(range.upperBound)")
        }
        guard imageSize % patchSize == 0 else { throw ModelError("image_size \(imageSize) is not a multiple of patch_size \(patchSize)") }
        guard embedDim % numHeads == 0 else { throw ModelError("embed_dim \(embedDim) is not a multiple of num_heads \(numHeads)") }
        let grid = imageSize / patchSize
        guard grid * grid <= 65_536 else { throw ModelError("\(grid * grid) patches; at most 65536 are supported") }
    }

    /// The model as forward code, its parameters declared under `scope`.
    package func makeModel(_ scope: ParameterScope, pretraining: Bool) throws -> any BaseModel {
        switch family {
        case "vit":
            let sizes = VisionTransformerSizes(imageSize: imageSize, patchSize: patchSize, embedDim: embedDim, depth: depth, numHeads: numHeads, channels: channels)
            return VisionTransformer(scope, sizes: sizes, pretraining: pretraining)
        default: throw ModelError("unknown model family '\(family)' (known: vit)")
        }
    }
}

/// What is wrong with an architecture or a model, in one line.
public struct ModelError: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String
    package init(_ description: String) { self.description = description }
}
