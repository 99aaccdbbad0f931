import HSSLFormats
import HSSLGraph

/// What a base model is: its family and sizes, as stored in a model file's `hssl.architecture`.
public struct ModelArchitecture: Equatable, Sendable {
    /// e.g. `vit_small`; `custom` where no named architecture fits.
    public let name: String
    /// The family's own sizes.
    package let configuration: any BaseConfiguration

    /// e.g. `vit`.
    public var family: String { type(of: configuration).family }
    /// Pixels a side of the images that the model is made for.
    public var imageSize: Int { configuration.imageSize }
    /// Of an image: red, green, blue.
    public var channels: Int { 3 }

    /// Every architecture known by name, family by family.
    public static var names: [String] { BaseFamilies.all.flatMap { $0.presets } }

    /// A named architecture.
    ///
    /// - Parameters:
    ///   - imageSize: pixels a side.
    ///   - patchSize: pixels a side of an embedded patch; nil: the architecture's own.
    /// - Throws: `ModelError` for an unknown name or sizes that do not fit.
    public init(named name: String, imageSize: Int, patchSize: Int? = nil) throws {
        guard let family = BaseFamilies.all.first(where: { $0.presets.contains(name) }) else {
            throw ModelError("unknown architecture '\(oneLine(name))' (known: \(Self.names.joined(separator: ", ")))")
        }
        try self.init(name: name, family.preset(name, imageSize: imageSize, patchSize: patchSize))
    }

    /// Where no preset has the sizes.
    package static let customName = "custom"

    /// Sizes, under the name of the preset that has them.
    package init(recognising configuration: any BaseConfiguration) throws {
        try self.init(name: configuration.presetName ?? Self.customName, configuration)
    }

    package init(name: String = Self.customName, _ configuration: any BaseConfiguration) throws {
        try configuration.validate()
        self.name = name
        self.configuration = configuration
    }

    /// The model as forward code, its parameters declared under `scope`.
    package func makeBase(_ scope: ParameterScope, _ use: Use) -> any Base { configuration.makeBase(scope, use) }

    public static func == (a: Self, b: Self) -> Bool {
        a.name == b.name && a.configuration.isEqual(to: b.configuration)
    }
}

/// What is wrong with an architecture or a model, in one line.
public struct ModelError: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String
    package init(_ description: String) { self.description = description }
}
