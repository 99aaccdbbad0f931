import HSSLFormats
import HSSLGraph
import HSSLModels

/// What a bank's answers depend on: as `bank.json` has it, in words a person can read.
package struct ViewBankIdentity: Equatable, Sendable {
    /// Who answered.
    package struct Teacher: Equatable, Sendable {
        /// Of its file, without folders; only the hash is compared.
        package var file: String
        package var architecture: String
        /// `ModelFile.fingerprint`.
        package var hash: String
        package var precision: Precision
        /// Side of a view, pixels.
        package var imageSize: Int
    }

    /// What was looked at.
    package struct Images: Equatable, Sendable {
        /// For people.
        package var name: String
        /// As a run's checkpoint has it.
        package var digest: String
    }

    package var teacher: Teacher
    package var data: Images
    /// Seed, and the keys of a recipe's `data` section that decide a first global view.
    package var drawn: JSONObject
    package var layout: ViewBankLayout
    /// What else its bytes depend on, by name; who reads the bank does not care.
    package var writer: JSONObject

    /// - Parameter name: of the data set, for people.
    init(_ request: ViewBankRequest, grid: Grid, width: Int, imagesPerShard: Int?) {
        let file = request.teacher, settings = request.settings
        teacher = Teacher(
            file: file.path.split(separator: "/").last.map(String.init) ?? file.path,
            architecture: file.architecture.name, hash: file.fingerprint, precision: request.precision,
            imageSize: file.architecture.imageSize)
        data = Images(
            name: request.dataset.path.split(separator: "/").suffix(2).joined(separator: "/"),
            digest: Trainer.digest(of: request.dataset))
        drawn = settings.drawn
        layout = ViewBankLayout(
            images: request.dataset.count, draws: settings.draws, width: width, grid: grid, rank: settings.rank,
            cells: settings.cells, imagesPerShard: imagesPerShard)
        writer = [:]
    }

    // MARK: Comparing

    /// What a bank of this identity is wrong for, in words that follow its path; nil: it has what is wanted.
    func difference(from wanted: ViewBankIdentity) -> String? {
        let other = wanted.teacher
        if teacher.hash != other.hash {
            return "is a bank of another teacher: \(oneLine(teacher.file)), hash \(oneLine(teacher.hash)); "
                + "\(other.file) has \(other.hash)"
        }
        if teacher.precision != other.precision {
            return
                "its teacher ran in \(teacher.precision.rawValue), not \(other.precision.rawValue) "
                + "(--teacher-precision)"
        }
        if layout.images != wanted.layout.images {
            return "is a bank of \(layout.images) images, \(wanted.data.name) has \(wanted.layout.images)"
        }
        if data.digest != wanted.data.digest {
            return "is a bank of other images than those of \(wanted.data.name), though as many"
        }
        if layout.draws != wanted.layout.draws {
            return "has \(layout.draws) draws an image, distill.draws is \(wanted.layout.draws)"
        }
        let keys = wanted.drawn.keys + drawn.keys.filter { wanted.drawn[$0] == nil }
        for key in keys where drawn[key] != wanted.drawn[key] {
            let (mine, others) = (drawn[key]?.text() ?? "absent", wanted.drawn[key]?.text() ?? "absent")
            return "its views were drawn with \(key) \(oneLine(mine)), not \(others)"
        }
        // Cells that nobody wants are no harm.
        if wanted.layout.rank > 0, layout.rank != wanted.layout.rank {
            func words(_ layout: ViewBankLayout) -> String {
                if layout.rank == 0 { return "no cells" }
                return layout.rank == layout.width ? "whole cells" : "cells of rank \(layout.rank)"
            }
            return "keeps \(words(layout)), not \(words(wanted.layout)) (distill.rank)"
        }
        guard layout.width == wanted.layout.width, layout.grid == wanted.layout.grid,
              teacher.imageSize == other.imageSize else { return "contradicts its teacher: another width or grid" }
        return nil
    }

    /// What the writer that goes on must have in common with the one that began, in words that follow the path.
    func writerDifference(from now: JSONObject) -> String? {
        for key in now.keys where writer[key] != now[key] {
            func value(_ object: JSONObject) -> String { oneLine(object[key]?.asString ?? "unknown") }
            return
                "was begun with \(key) \(value(writer)), not \(value(now)); go on with the same, or remove the folder"
        }
        return nil
    }

    /// Of everything that answers depend on: in every shard, so that shards of two banks are never mixed.
    var checksum: String {
        let parts: JSONValue = [
            "teacher": .string(teacher.hash), "precision": .string(teacher.precision.rawValue),
            "data": .string(data.digest), "drawn": .object(drawn), "layout": .object(layout.json),
        ]
        return parts.bytes(keys: .sorted).withUnsafeBytes { CRC32C($0).hexadecimal }
    }

    // MARK: bank.json

    static let format = "hssl view bank"
    static let version = 1

    package var json: JSONValue {
        [
            "format": .string(Self.format), "version": .integer(Self.version),
            "teacher": [
                "file": .string(teacher.file), "architecture": .string(teacher.architecture),
                "hash": .string(teacher.hash), "precision": .string(teacher.precision.rawValue),
                "image_size": .integer(teacher.imageSize),
            ],
            "data": ["name": .string(data.name), "digest": .string(data.digest)],
            "drawn": .object(drawn), "views": .object(layout.json), "writer": .object(writer),
        ]
    }

    /// - Throws: `FileError` for a file that is no bank's, or a later version's.
    init(path: String) throws(FileError) {
        let bytes = try readFile(at: path, limit: 1 << 20)
        do {
            guard let text = String(validating: bytes, as: UTF8.self) else {
                throw PretrainingError("it is not UTF-8 text")
            }
            try self.init(json: JSONValue.parse(text))
        } catch {
            throw FileError(path: path, reason: "describes no view bank: \(error)")
        }
    }

    private init(json: JSONValue) throws {
        let context = "bank"
        guard try json.string("format", in: context) == Self.format else { throw PretrainingError("another format") }
        let version = try json.integer("version", in: context)
        guard version == Self.version else {
            throw PretrainingError("version \(version), this program reads \(Self.version)")
        }
        let teacher = try json.value("teacher", in: context), data = try json.value("data", in: context)
        self.teacher = Teacher(
            file: try teacher.string("file", in: "teacher"),
            architecture: try teacher.string("architecture", in: "teacher"),
            hash: try teacher.string("hash", in: "teacher"),
            precision: try teacher.choice("precision", in: "teacher"),
            imageSize: try teacher.integer("image_size", in: "teacher", range: 1...16_384))
        self.data = Images(
            name: try data.string("name", in: "data"), digest: try data.string("digest", in: "data"))
        guard case .object(let drawn) = try json.value("drawn", in: context),
              case .object(let writer) = try json.value("writer", in: context) else {
            throw PretrainingError("'drawn' and 'writer' must be objects")
        }
        (self.drawn, self.writer) = (drawn, writer)
        layout = try ViewBankLayout(json: json.value("views", in: context))
    }
}

/// What a bank is to hold, besides who is asked about which images.
package struct ViewBankSettings: Equatable, Sendable {
    /// Draws an image, K: at least 1.
    package var draws: Int
    /// Coordinates of a cell; 0: all channels.
    package var rank: Int
    /// Whether cells are kept at all.
    package var cells: Bool
    package var seed: UInt64
    /// How views are drawn; of mean and standard deviation the teacher's own are taken.
    package var augmentation: Recipe.Data

    package init(draws: Int, rank: Int, cells: Bool = true, seed: UInt64, augmentation: Recipe.Data) {
        (self.draws, self.rank, self.cells, self.seed) = (draws, rank, cells, seed)
        self.augmentation = augmentation
    }

    /// By the recipe's names. Local views, and what only the second global view has, decide nothing here.
    fileprivate var drawn: JSONObject {
        func numbers(_ values: [Double]) -> JSONValue { .array(values.map { .number($0) }) }
        let data = augmentation
        var drawn: JSONObject = [
            // As text: JSON's integers end at 2^63.
            "schedule.seed": .string("\(seed)"),
            "data.global_crops_scale": numbers(data.globalCropsScale),
            "data.flip_probability": .number(data.flipProbability),
            "data.color_jitter": numbers(data.colorJitter),
            "data.color_jitter_probability": .number(data.colorJitterProbability),
            "data.grayscale_probability": .number(data.grayscaleProbability),
            "data.blur_probability": .number(data.blurProbability[0]),
            "data.blur_radius": numbers(data.blurRadius),
        ]
        // Banks of earlier builds are on black.
        if data.background != .black { drawn["data.background"] = .string("\(data.background)") }
        return drawn
    }
}
