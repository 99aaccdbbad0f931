import HSSLFormats
import HSSLGraph
import HSSLModels

/// What a person who finds an exported model wants to know, as Markdown: what it is, how to use it, how its images are
/// prepared, how near int8 is to float32, where it comes from and under which licence.
package struct ModelCard {
    /// What reads the model.
    package enum Reader: Sendable {
        case hssl, timm, transformers, onnx

        /// As model hubs call it.
        fileprivate var library: String {
            switch self {
            case .hssl: "hssl"
            case .timm: "timm"
            case .transformers: "transformers"
            case .onnx: "onnx"
            }
        }
    }

    private let base: PreparedBase
    private let reader: Reader
    /// Of the model, as it is written.
    private let name: String
    /// Bytes of the weights' file.
    private let byteCount: Int
    private let notes: [String]

    /// - Parameters:
    ///   - name: of the file or folder.
    ///   - notes: what the reader computes otherwise.
    package init(_ base: PreparedBase, for reader: Reader, name: String, byteCount: Int, notes: [String] = []) {
        (self.base, self.reader, self.name) = (base, reader, name)
        (self.byteCount, self.notes) = (byteCount, notes)
    }

    /// Last line of a card that may be written anew: nobody has worked on it.
    private static let mark = "<!-- Written by hssl export, which writes it anew; without this line it is kept. -->"

    /// Beside a model file: `base.safetensors` has `base.md`, and `base.onnx`, which may lie beside it, `base.onnx.md`.
    package static func path(of model: String) -> String {
        (model.hasSuffix(".onnx") ? model : stem(model)) + ".md"
    }

    private static func stem(_ model: String) -> String {
        let suffix = [".safetensors", ".onnx"].first { model.hasSuffix($0) } ?? ""
        return String(model.dropLast(suffix.count))
    }

    /// Writes the card, where no person's stands.
    ///
    /// - Parameter earlier: where a person's may stand; it is then copied. Nil: `path`.
    /// - Returns: whether it was written.
    package func write(to path: String, inPlaceOf earlier: String? = nil) throws -> Bool {
        let found = earlier ?? path
        if (try? ReadableFile(path: found)) != nil {
            let bytes = try readFile(at: found, limit: 1 << 20)
            guard String(decoding: bytes, as: UTF8.self).contains(Self.mark) else {
                if found != path { try AtomicFile.write(bytes, to: path) }
                return false
            }
        }
        try AtomicFile.write(Array(text.utf8), to: path)
        return true
    }

    package var text: String {
        var lines: [String] = []
        // A hub reads these lines; a file beside a model has no use for them.
        if reader == .timm || reader == .transformers { lines += frontMatter }
        lines += ["# \(plain(title))", "", summary, "", "| | |", "|---|---|"]
        lines += rows.map { "| \($0.0) | \($0.1) |" }
        lines += ["", "**Use**", "", "```"] + usage + ["```"]
        lines += training.isEmpty ? [] : ["", "**Trained:** " + training]
        if let int8 { lines += ["", "**int8 against float32:** " + int8] }
        lines += teacher.isEmpty ? [] : ["", "**Teacher:** " + teacher]
        lines += ["", "**Licence:** " + licence]
        lines += notes.flatMap { ["", "**Note:** " + plain($0) + "."] }
        return (lines + ["", Self.mark, ""]).joined(separator: "\n")
    }

    // MARK: Parts

    private var architecture: ModelArchitecture { base.source.architecture }
    private var title: String { Self.stem(name) }
    private var weightCount: Int {
        ModelTrace(architecture).parameters.all.reduce(0) { $0 + $1.count }
    }
    private var width: Int { ModelTrace(architecture).global.width }

    private var frontMatter: [String] {
        let license = base.provenance.license
        return [
            "---", "library_name: \(reader.library)", "pipeline_tag: image-feature-extraction",
            "license: \(JSONValue.string(license.isEmpty ? "unknown" : license).text())",
            "tags:", "- image-feature-extraction", "- \(architecture.family)", "- hssl", "---", "",
        ]
    }

    private var summary: String {
        "A \(type(of: architecture.configuration).title) (`\(architecture.name)`) that turns an image into "
            + "\(width) numbers."
    }

    private var rows: [(String, String)] {
        let images = base.source.preprocessing
        func list(_ values: [Float]) -> String { values.map(\.description).joined(separator: ", ") }
        let stored =
            switch base.precision {
            case .float32: "float32"
            case .float16: "float16"
            case .int8: "int8 with a scale a row (linear layers; all else float32)"
            }
        let sizes = architecture.configuration.json.map { "\($0.key) \($0.value.text())" }.joined(separator: ", ")
        return [
            ("sizes", plain(sizes)),
            ("weights", "\(Self.millions(weightCount)) M, \(stored), \(Self.millions(byteCount)) MB"),
            (
                "images",
                "shorter side to \(images.resize) (\(images.interpolation.rawValue), antialiased), centre "
                + "\(images.crop)×\(images.crop), mean \(list(images.mean)), std \(list(images.std))"
                    + (images.background == .black ? "" : ", transparent ones on \(images.background)")
            ),
        ]
    }

    private var usage: [String] {
        switch reader {
        case .hssl: ["hssl-extract --model \(plain(name)) photo.jpg --output -"]
        case .onnx:
            [
                "session = onnxruntime.InferenceSession(\"\(plain(name))\")",
                "features, patches = session.run([\"global\", \"patch\"], {\"pixel_values\": images})",
            ]
        case .timm:
            [
                "model = timm.create_model(\"local-dir:\(plain(name))\", pretrained=True).eval()",
                "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
            ]
        case .transformers:
            [
                "model = AutoModel.from_pretrained(\"\(plain(name))\")",
                "processor = AutoImageProcessor.from_pretrained(\"\(plain(name))\")",
            ]
        }
    }

    private var training: String {
        let origin = base.provenance
        var parts: [String] = []
        if !origin.method.isEmpty { parts.append(origin.method) }
        if !origin.head.isEmpty, origin.head != "none" { parts.append("auxiliary head \(origin.head)") }
        if !origin.data.isEmpty { parts.append("on \(origin.data)") }
        if origin.epochs > 0 { parts.append("\(origin.epochs) epochs") }
        if let schedule = origin.schedule {
            parts.append(
                "updates of \(schedule.batchSize), learning rate \(schedule.learningRate), seed \(schedule.seed)")
        }
        if !origin.precision.isEmpty { parts.append("in \(origin.precision)") }
        if !origin.version.isEmpty { parts.append("hssl \(origin.version)") }
        return parts.isEmpty ? "" : plain(parts.joined(separator: ", ")) + "."
    }

    private var int8: String? {
        guard base.precision == .int8 else { return nil }
        guard let figures = base.provenance.int8 else { return "not measured." }
        let images = figures.source == "generated"
            ? "\(figures.images) generated pictures: measure with --calibration for yours"
            : "\(figures.images) images of \(plain(figures.source))"
        let smoothed = figures.smoothedGroups == 0
            ? "" : "; \(figures.smoothedGroups) layers smoothed, "
                + "\(Int8Measurement.text(figures.plainMeanCosine)) without"
        return "cosine of the features \(Int8Measurement.text(figures.meanCosine)) in the mean, "
            + "\(Int8Measurement.text(figures.leastCosine)) the least, over \(images)\(smoothed)."
    }

    private var teacher: String { base.provenance.teacher.map { plain($0.summary) } ?? "" }

    private var licence: String {
        guard !base.provenance.license.isEmpty else {
            return "not stated by the file: that of whoever trained it and of the pictures that it was trained on."
        }
        return "\(plain(base.provenance.license)), as the source of the weights states it."
    }

    /// Text that is no markup, in one line.
    private func plain(_ text: String) -> String {
        var result = ""
        for character in PathBytes.readable(oneLine(text, limit: 2_000)) {
            if "|<>`*[]".contains(character) { result.append("\\") }
            result.append(character)
        }
        return result
    }

    /// Two places, of a million.
    private static func millions(_ count: Int) -> String {
        let hundredths = (count + 5_000) / 10_000
        let fraction = hundredths % 100
        return "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction)"
    }
}
