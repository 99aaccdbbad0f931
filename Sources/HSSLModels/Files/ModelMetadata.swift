import HSSLFormats

/// Where a model comes from: as stored in `hssl.provenance`. Informative only; absent entries are empty.
public struct ModelProvenance: Equatable, Sendable {
    /// How it was trained: e.g. `hssl (ibot)` with an auxiliary head, `ibot` without.
    public var method: String
    /// Auxiliary head that the base was trained with, e.g. `convnext2`.
    public var head: String
    /// Data set by name.
    public var data: String
    /// Epochs done; 0 where the file does not say.
    public var epochs: Int
    /// Precision of training.
    public var precision: String
    /// Version of the program that trained it.
    public var version: String
    /// Of an int8 file: how near its features are to the float32 model's; nil where nobody measured.
    public var int8: Int8Figures?
    /// Of a model that was trained here; nil where the file does not say.
    public var schedule: Schedule?
    /// Of a distilled model: what it learnt from.
    public var teacher: Teacher?
    /// Under which the weights may be used; empty where nobody said.
    public var license = ""

    /// What a person who trains it again has to set.
    public struct Schedule: Equatable, Sendable {
        /// Images of an update.
        public var batchSize: Int
        /// Of 256 images, the highest of the schedule: the recipe's `optimizer.learning_rate`.
        public var learningRate: Double
        /// Of the recipe's `schedule.seed`: weights, order of images, augmentations and masks followed from it.
        public var seed: UInt64

        package init(batchSize: Int, learningRate: Double, seed: UInt64) {
            (self.batchSize, self.learningRate, self.seed) = (batchSize, learningRate, seed)
        }
    }

    /// The frozen model that a student was distilled from.
    public struct Teacher: Equatable, Sendable {
        /// Of its file, without folders.
        public var file: String
        /// Tells that file from another one: CRC-32C of header and data, and bytes.
        public var hash: String
        /// Empty where its file says none.
        public var license: String
        /// Precision in which it answered: `float32`, `float16` or `int8`.
        public var precision: String

        package init(file: String, hash: String, license: String, precision: String) {
            (self.file, self.hash, self.license, self.precision) = (file, hash, license, precision)
        }
    }

    /// How near the features of an int8 model are to those of the float32 model that it was made from.
    public struct Int8Figures: Equatable, Sendable {
        /// Mean cosine, −1 … 1, of the global features of both models, over `images` images of `source`.
        public var meanCosine: Double
        /// The least of these cosines.
        public var leastCosine: Double
        /// Images that were measured.
        public var images: Int
        /// Where these images are from: a data set, or `generated`.
        public var source: String
        /// The mean cosine without moved scales: of codes made from the weights as they are.
        public var plainMeanCosine: Double
        /// Layers whose channels' scales were moved into the weights behind them.
        public var smoothedGroups: Int

        package init(
            meanCosine: Double, leastCosine: Double, images: Int, source: String, plainMeanCosine: Double,
            smoothedGroups: Int
        ) {
            (self.meanCosine, self.leastCosine, self.images, self.source) = (meanCosine, leastCosine, images, source)
            (self.plainMeanCosine, self.smoothedGroups) = (plainMeanCosine, smoothedGroups)
        }
    }

    /// What every model file says; the other entries are set afterwards.
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
    package static let key = "hssl.architecture"

    package var json: JSONValue {
        var object: JSONObject = ["family": .string(family), "name": .string(name)]
        for (key, value) in configuration.json { object[key] = value }
        object["in_chans"] = .integer(channels)
        return .object(object)
    }

    /// An unknown key is refused: a reader that ignored it would compute something else than the writer meant.
    package init(json: JSONValue) throws {
        let key = Self.key
        let name = try json.string("name", in: key)
        do {
            let family = try BaseFamilies.named(json.string("family", in: key))
            let configuration = try family.init(json: json)
            try json.requireKeys(
                among: ["family", "name", "in_chans"] + configuration.json.map(\.key) + family.optionalKeys, in: key)
            try self.init(name: name, configuration)
            let channels = try json.integer("in_chans", in: key)
            guard channels == self.channels else { throw ModelError("in_chans \(channels) is not in 3 … 3") }
        } catch let error as ModelError {
            throw ModelError("\(key): \(oneLine(error.description, limit: 200))")
        }
    }
}

extension Preprocessing {
    package static let key = "hssl.preprocessing"

    package var json: JSONValue {
        var json: JSONObject = [
            "resize": .integer(resize), "crop": .integer(crop), "interpolation": .string(interpolation.rawValue),
            "mean": .array(mean.map(shortest)), "std": .array(std.map(shortest)),
        ]
        // Builds before know no other than black.
        if background != .black { json["background"] = .array(background.channels.map { .integer($0) }) }
        return .object(json)
    }

    init(json: JSONValue) throws {
        let key = Self.key
        try json.requireKeys(among: ["resize", "crop", "interpolation", "mean", "std", "background"], in: key)
        let name = try json.string("interpolation", in: key)
        guard let interpolation = Interpolation(rawValue: name) else {
            let known = Interpolation.allCases.map(\.rawValue).joined(separator: ", ")
            throw ModelError("\(key): unknown interpolation '\(oneLine(name))' (known: \(known))")
        }
        let (resize, crop) = (try json.integer("resize", in: key), try json.integer("crop", in: key))
        let mean = try json.numbers("mean", in: key).map { Float($0) }
        let std = try json.numbers("std", in: key).map { Float($0) }
        do {
            try self.init(resize: resize, crop: crop, interpolation: interpolation, mean: mean, std: std)
        } catch {
            throw ModelError("\(key): \(error.reason)")
        }
        if try json.member("background", in: key) != nil {
            guard let color = RGBColor(channels: try json.integers("background", in: key)) else {
                throw ModelError("\(key): background must be three integers from 0 to 255")
            }
            background = color
        }
    }

    /// - Throws: `ModelError`, where the model cannot be served this way.
    func validate(for architecture: ModelArchitecture) throws {
        guard crop == architecture.imageSize else {
            throw ModelError("\(Self.key): crop \(crop) differs from the model's image_size \(architecture.imageSize)")
        }
    }
}

extension ModelProvenance {
    package static let key = "hssl.provenance"

    package var json: JSONValue {
        var object: JSONObject = [
            "method": .string(method), "head": .string(head), "data": .string(data), "epochs": .integer(epochs),
            "precision": .string(precision), "version": .string(version),
        ]
        object["int8"] = int8.map { int8 in
            [
                "cosine": .number(int8.meanCosine), "least_cosine": .number(int8.leastCosine),
                "images": .integer(int8.images), "calibration": .string(int8.source),
                "cosine_unsmoothed": .number(int8.plainMeanCosine), "smoothed_layers": .integer(int8.smoothedGroups),
            ]
        }
        if !license.isEmpty { object["license"] = .string(license) }
        object["schedule"] = schedule?.json
        object["teacher"] = teacher?.json
        return .object(object)
    }

    /// Lenient: nothing is computed from it, and other writers may say more.
    init(json: JSONValue) throws {
        func text(_ key: String) throws -> String { try json.member(key, in: Self.key)?.asString ?? "" }
        self.init(
            method: try text("method"), head: try text("head"), data: try text("data"),
            epochs: try json.member("epochs", in: Self.key)?.asInteger ?? 0, precision: try text("precision"),
            version: try text("version"))
        license = try text("license")
        schedule = try json.member("schedule", in: Self.key).flatMap { try Schedule(json: $0) }
        teacher = try json.member("teacher", in: Self.key).flatMap { try Teacher(json: $0) }
        guard let object = try json.member("int8", in: Self.key), case .object = object else { return }
        func number(_ key: String) throws -> Double { try object.member(key, in: Self.key)?.asNumber ?? 0 }
        int8 = Int8Figures(
            meanCosine: try number("cosine"), leastCosine: try number("least_cosine"),
            images: try object.member("images", in: Self.key)?.asInteger ?? 0,
            source: try object.member("calibration", in: Self.key)?.asString ?? "",
            plainMeanCosine: try number("cosine_unsmoothed"),
            smoothedGroups: try object.member("smoothed_layers", in: Self.key)?.asInteger ?? 0)
    }
}

extension ModelProvenance.Schedule {
    package var json: JSONValue {
        // A seed may be larger than the integers of JSON's readers.
        ["batch_size": .integer(batchSize), "learning_rate": .number(learningRate), "seed": .string("\(seed)")]
    }

    /// Lenient as the provenance around it; nil for what is no schedule.
    package init?(json: JSONValue) throws {
        guard case .object = json, let batchSize = try json.member("batch_size", in: "schedule")?.asInteger,
            let learningRate = try json.member("learning_rate", in: "schedule")?.asNumber,
            let seed = try json.member("seed", in: "schedule")?.asString.flatMap({ UInt64($0) })
        else { return nil }
        self.init(batchSize: batchSize, learningRate: learningRate, seed: seed)
    }
}

extension ModelProvenance.Teacher {
    package var json: JSONValue {
        [
            "file": .string(file), "hash": .string(hash), "license": .string(license),
            "precision": .string(precision),
        ]
    }

    /// Lenient as the provenance around it; nil for what is no object.
    package init?(json: JSONValue) throws {
        guard case .object = json else { return nil }
        func text(_ key: String) throws -> String { try json.member(key, in: "teacher")?.asString ?? "" }
        self.init(
            file: try text("file"), hash: try text("hash"), license: try text("license"),
            precision: try text("precision"))
    }
}

/// The float64 with the shortest text of a float32, so that 0.485 is not written as 0.48500001430511475.
package func shortest(_ value: Float) -> JSONValue { .number(Double(value.description) ?? Double(value)) }
