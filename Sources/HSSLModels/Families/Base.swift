import HSSLFormats
import HSSLGraph

/// Rows and columns of patch tokens.
package struct Grid: Hashable, Sendable {
    package var height: Int
    package var width: Int
    package var count: Int { height * width }

    package init(height: Int, width: Int) {
        self.height = height
        self.width = width
    }
}

/// What a base is built for.
package enum Use: Sendable {
    /// With a mask token, where the family has a place for one, and weights as they are trained.
    case pretraining
    /// As it is exported: timm's parameters, nothing else.
    case deployment
}

/// One forward pass: which branches are dropped, and how it is evaluated.
package struct Pass {
    /// Nil drops nothing.
    package var stochasticDepth: StochasticDepth?
    /// Place of the first block in the sequence over base and auxiliary head.
    package var firstBlock: Int
    /// Evaluates the plain definition where a cheaper one gives the same in real arithmetic: the oracle in tests.
    package var plain: Bool

    package init(stochasticDepth: StochasticDepth? = nil, firstBlock: Int = 0, plain: Bool = false) {
        (self.stochasticDepth, self.firstBlock, self.plain) = (stochasticDepth, firstBlock, plain)
    }

    /// For each sample 0 (the branch is dropped) or 1/keep; nil where nothing can be dropped.
    package func scale(block: Int, branch: Int) -> [Float]? {
        stochasticDepth?.scale(block: firstBlock + block, branch: branch)
    }
}

/// What a base makes of images, before its final norm.
package struct BaseOutput {
    /// Prefix tokens, then the cells of the last grid row by row: [B, prefix + N, D].
    package let tokens: Tensor
    /// Tokens that stand for no place: CLS, then registers.
    package let prefix: Int
    package let grid: Grid

    package init(tokens: Tensor, prefix: Int = 0, grid: Grid) {
        (self.tokens, self.prefix, self.grid) = (tokens, prefix, grid)
    }

    /// Samples B.
    package var count: Int { tokens.shape[0] }

    /// The last grid [B, h, w, D]: what auxiliary heads see.
    package var cells: Tensor {
        let cells = prefix == 0 ? tokens : tokens.droppingTokens(prefix)
        return cells.reshaped([count, grid.height, grid.width, cells.width])
    }

    /// Rows of the given cells (sample · N + cell; nil: all) among the rows of `tokens`.
    package func rows(ofCells cells: [Int32]?) -> [Int32] {
        let (cellCount, length) = (Int32(grid.count), Int32(grid.count + prefix))
        return (cells ?? (0..<Int32(count) * cellCount).map { $0 }).map {
            $0 / cellCount * length + Int32(prefix) + $0 % cellCount
        }
    }
}

/// A base model as forward code: what is pretrained, exported and served.
package protocol Base {
    /// Channels D of the last grid.
    var width: Int { get }
    /// Residual blocks, for the schedule of stochastic depth.
    var blocks: Int { get }
    /// Stands for masked cells while pretraining; nil where the family has no place for one.
    var maskToken: Parameter? { get }
    /// The last grid for an image of this size.
    func grid(height: Int, width: Int) -> Grid
    /// Images [B, C, H, W]; `mask` [B · N] marks the cells of the last grid that the model may not see.
    func callAsFunction(_ images: Tensor, mask: [UInt8]?, _ pass: Pass) -> BaseOutput
    /// One vector an image, after the final norm [B, D].
    func global(_ output: BaseOutput) -> Tensor
    /// One vector a cell, after the final norm: [cells.count, D] for cells numbered sample · N + cell; nil: all [B · N,
    /// D].
    func local(_ output: BaseOutput, cells: [Int32]?) -> Tensor
}

/// The sizes of a base model: what `hssl.architecture` of a model file stores. A family is one file that conforms, and
/// one row of `BaseFamilies`.
package protocol BaseConfiguration: Equatable, Sendable {
    /// e.g. `vit`.
    static var family: String { get }
    /// As a sentence says it, e.g. `vision transformer`.
    static var title: String { get }
    /// What the names of a patch embedding's parameters begin with; nil where the family has none.
    static var patchEmbedding: String? { get }
    /// Names of known sizes, as timm's where timm has them.
    static var presets: [String] { get }
    /// The sizes of a preset.
    ///
    /// - Parameter patchSize: pixels a side of an embedded patch; nil: the preset's own.
    /// - Throws: `ModelError` where the family has no such patches, or the sizes do not fit.
    static func preset(_ name: String, imageSize: Int, patchSize: Int?) throws -> Self
    /// - Parameter json: the members of `hssl.architecture` besides family, name and in_chans.
    /// - Throws: `ModelError` or `JSONError` for a missing, unknown or impossible member.
    init(json: JSONValue) throws
    /// Members that a file may leave out: what they mean then is what files without them meant.
    static var optionalKeys: [String] { get }
    /// In the order in which they are written.
    var json: [(key: String, value: JSONValue)] { get }
    /// Pixels a side of the images that the model is made for.
    var imageSize: Int { get set }
    /// Pixels a side of an embedded patch, for `preset`; nil where the family has none.
    var patchSizeOfPreset: Int? { get }
    /// - Throws: `ModelError` for sizes that cannot be.
    func validate() throws
    /// The model, its parameters declared under `scope`.
    func makeBase(_ scope: ParameterScope, _ use: Use) -> any Base
}

/// The base families there are.
package enum BaseFamilies {
    package static let all: [any BaseConfiguration.Type] = [
        VisionTransformer.Configuration.self, Swin.Configuration.self, ConvNeXt.Configuration.self,
        ResNet.Configuration.self,
    ]

    package static func named(_ family: String) throws -> any BaseConfiguration.Type {
        guard let known = all.first(where: { $0.family == family }) else {
            throw ModelError(
                "unknown model family '\(oneLine(family))' (known: \(all.map { $0.family }.joined(separator: ", ")))")
        }
        return known
    }
}

extension BaseConfiguration {
    package static var optionalKeys: [String] { [] }
    package static var patchEmbedding: String? { nil }

    /// The name of the preset that has these sizes, for any image size; nil: none has.
    var presetName: String? {
        Self.presets.first { name in
            let own = try? Self.preset(name, imageSize: imageSize, patchSize: nil)
            return own == self || (try? Self.preset(name, imageSize: imageSize, patchSize: patchSizeOfPreset)) == self
        }
    }

    /// - Throws: `ModelError` naming the first size out of its range: every later product stays far from overflow.
    static func check(_ bounds: [(key: String, value: Int, range: ClosedRange<Int>)]) throws {
        for (key, value, range) in bounds where !range.contains(value) {
            throw ModelError("\(key) \(value) is not in \(range.lowerBound) … \(range.upperBound)")
        }
    }

    static func checkEpsilon(_ key: String, _ value: Double) throws {
        guard ModelBounds.epsilon.contains(value) else {
            throw ModelError(
                "\(key) \(value) is not in \(ModelBounds.epsilon.lowerBound) … \(ModelBounds.epsilon.upperBound)")
        }
    }

    /// The same for one value a stage.
    static func check(_ key: String, _ values: [Int], _ range: ClosedRange<Int>) throws {
        try check(values.map { (key, $0, range) })
    }

    /// Why the model cannot see images of this size, e.g. local views; nil: it can.
    package func objection(toImageSize size: Int) -> String? {
        var other = self
        other.imageSize = size
        do { try other.validate() } catch { return "\(error)" }
        return nil
    }

    func isEqual(to other: any BaseConfiguration) -> Bool { (other as? Self) == self }
}

/// Bounds that every family has.
package enum ModelBounds {
    static let imageSize = 1...16_384
    static let patchSize = 1...1_024
    static let width = 1...16_384
    static let depth = 1...512
    static let heads = 1...1_024
    static let stages = 1...8
    static let cells = 65_536
    /// Elements of all tables that follow from the sizes alone (angles, window masks, biases): 256 MB. Published models
    /// have a quarter of it at most, and a file of some bytes could ask for any number.
    static let tableElements = 1 << 26
    /// Channels of a layer before a group norm.
    package static let groupNormChannels = Tensor.groupNormChannels
    static let epsilon = 1e-15...1e-2
}
