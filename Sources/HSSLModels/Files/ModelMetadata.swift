import HSSLFormats

/// How an image becomes a model's input: as stored in `hssl.preprocessing`.
///
/// Shorter side → `resize` (antialiased), centre crop `crop`×`crop`, /255, (x − mean)/std per channel.
public struct ModelPreprocessing: Equatable, Sendable {
    /// Pixels of the shorter side.
    public var resize: Int
    /// Pixels of the square that the model sees: the architecture's image size.
    public var crop: Int
    /// Only `bicubic` is known.
    public var interpolation: String
    /// Per channel, of values in 0 … 1.
    public var mean: [Float]
    public var std: [Float]

    public init(resize: Int, crop: Int, interpolation: String = "bicubic", mean: [Float], std: [Float]) {
        self.resize = resize
        self.crop = crop
        self.interpolation = interpolation
        self.mean = mean
        self.std = std
    }
}

/// Where a model comes from: as stored in `hssl.provenance`. Informative only; absent entries are empty.
public struct ModelProvenance: Equatable, Sendable {
    /// e.g. `hssl` or `ibot`.
    public var method: String
    /// Auxiliary head that the base was trained with, e.g. `convnext2`.
    public var head: String
    /// Data set by name.
    public var data: String
    public var epochs: Int
    /// Precision of training.
    public var precision: String
    /// Version of the program that trained it.
    public var version: String

    public init(method: String, head: String, data: String, epochs: Int, precision: String, version: String) {
        self.method = method
        self.head = head
        self.data = data
        self.epochs = epochs
        self.precision = precision
        self.version = version
    }
}

// MARK: JSON

extension ModelArchitecture {
    static let key = "hssl.architecture"

    var json: JSONValue {
        var object: JSONObject = ["family": .string(family), "name": .string(name)]
        for (key, value) in configuration.json { object[key] = value }
        object["in_chans"] = .integer(channels)
        return .object(object)
    }

    /// An unknown key is refused: a reader that ignored it would compute something else than the writer meant.
    init(json: JSONValue) throws {
        let key = Self.key
        let name = try json.string("name", in: key)
        do {
            let configuration = try BaseFamilies.named(json.string("family", in: key)).init(json: json)
            try json.requireKeys(among: ["family", "name", "in_chans"] + configuration.json.map(\.key), in: key)
            try self.init(name: name, configuration)
            let channels = try json.integer("in_chans", in: key)
            guard channels == self.channels else { throw ModelError("in_chans \(channels) is not in 3 … 3") }
        } catch let error as ModelError {
            throw ModelError("\(key): \(oneLine(error.description, limit: 200))")
        }
    }
}

extension ModelPreprocessing {
    static let key = "hssl.preprocessing"

    var json: JSONValue {
        [
            "resize": .integer(resize), "crop": .integer(crop), "interpolation": .string(interpolation),
            "mean": .array(mean.map(shortest)), "std": .array(std.map(shortest)),
        ]
    }

    init(json: JSONValue) throws {
        let key = Self.key
        try json.requireKeys(among: ["resize", "crop", "interpolation", "mean", "std"], in: key)
        self.init(
            resize: try json.integer("resize", in: key, range: 1...32_768), crop: try json.integer("crop", in: key, range: 1...16_384),
            interpolation: try json.string("interpolation", in: key), mean: try json.numbers("mean", in: key).map { Float($0) },
            std: try json.numbers("std", in: key).map { Float($0) })
    }

    /// - Throws: `ModelError`, where the model cannot be served this way.
    func validate(for architecture: ModelArchitecture) throws {
        let key = Self.key
        guard crop == architecture.imageSize else { throw ModelError("\(key): crop \(crop) differs from the model's image_size \(architecture.imageSize)") }
        guard resize >= crop else { throw ModelError("\(key): resize \(resize) is less than crop \(crop)") }
        guard interpolation == "bicubic" else { throw ModelError("\(key): unknown interpolation '\(oneLine(interpolation))' (known: bicubic)") }
        guard mean.count == architecture.channels, std.count == architecture.channels else {
            throw ModelError("\(key): mean and std must have \(architecture.channels) entries")
        }
        guard mean.allSatisfy(\.isFinite), std.allSatisfy({ $0.isFinite && $0 > 0 }) else {
            throw ModelError("\(key): mean must be finite and std positive")
        }
    }
}

extension ModelProvenance {
    static let key = "hssl.provenance"

    var json: JSONValue {
        [
            "method": .string(method), "head": .string(head), "data": .string(data), "epochs": .integer(epochs),
            "precision": .string(precision), "version": .string(version),
        ]
    }

    /// Lenient: nothing is computed from it, and other writers may say more.
    init(json: JSONValue) throws {
        func text(_ key: String) throws -> String { try json.member(key, in: Self.key)?.asString ?? "" }
        self.init(
            method: try text("method"), head: try text("head"), data: try text("data"),
            epochs: try json.member("epochs", in: Self.key)?.asInteger ?? 0, precision: try text("precision"), version: try text("version"))
    }
}

/// The float64 with the shortest text of a float32, so that 0.485 is not written as 0.48500001430511475.
private func shortest(_ value: Float) -> JSONValue { .number(Double(value.description) ?? Double(value)) }
