import ArgumentParser
import HSSLCommandLine
import HSSLFormats
import HSSLGraph
import HSSLImport
import HSSLModels
import HSSLPretraining
#if canImport(Glibc)
import Glibc
#endif

struct Export: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Write the compact base model of a run, or a model at another precision.",
        discussion: """
            The auxiliary head, the projection and the mask token are left behind: what remains is a plain model under \
            timm's names. int8 is measured against float32, and the mean cosine of the features is shown and stored; \
            below 0.99 the layers that lose most are named. ONNX files read pixel_values [batch, 3, H, W] (prepared \
            images: the metadata say how) and give global [batch, D] and patch [batch, N, D]; their int8 has fixed \
            scales, so give it --calibration images like those to come.

            Examples:
              hssl export runs/first --output base.safetensors
              hssl export runs/first --output base-int8.safetensors --precision int8
              hssl export runs/first/checkpoint.safetensors --output student.safetensors \\
                  --network student --precision float16
              hssl export base.safetensors --output base-int8.safetensors \\
                  --precision int8 --calibration photos/
              hssl export base.safetensors --output base-timm --format timm
              hssl export base.safetensors --output base.onnx --format onnx
              hssl export base.safetensors --output base-hf --format hf --precision int8 \\
                  --calibration photos/
            """)

    @Argument(help: ArgumentHelp("Run folder, checkpoint file or model file.", valueName: "run|checkpoint|model"))
    var input: String

    @Option(
        name: .long,
        help: ArgumentHelp("Model file to write; with --format timm or hf a folder.", valueName: "file|folder"))
    var output: String

    @Option(
        name: .long,
        help: ArgumentHelp(
            "hssl: one file, for hssl-extract; timm, hf: a folder for timm.create_model(\"local-dir:…\"), AutoModel; "
                + "onnx: one file of opset 17.",
            valueName: "format"))
    var format: ExportFormat = .hssl

    @Option(name: .long, help: ArgumentHelp("float32, float16 or int8.", valueName: "p"))
    var precision: Precision = .float32

    @Option(name: .long, help: ArgumentHelp("teacher (the better features) or student.", valueName: "network"))
    var network: NetworkRole = .teacher

    @Flag(
        inversion: .prefixedNo,
        help: "Write a model card: FILE.md beside the model, README.md in a folder. One that a person wrote is kept.")
    var card = true

    @OptionGroup var int8: Int8CommandOptions

    @OptionGroup var shared: SharedOptions

    enum NetworkRole: String, ExpressibleByArgument, CaseIterable { case teacher, student }

    func validate() throws { try int8.validate(precision) }

    func run() throws {
        shared.apply()
        let base = try export(int8.options)
        if let (done, epochs) = base.source.unfinished {
            let run = oneLine(input, limit: 4096)
            let command = base.provenance.teacher == nil ? "pretrain" : "distill"
            print("note: \(run) has done \(done) of \(epochs) epochs: hssl \(command) --resume goes on")
        }
        base.measurement?.show()
        if let teacher = base.provenance.teacher { print("distilled from \(teacher.summary)") }
    }

    private func export(_ int8: Int8Options) throws -> PreparedBase {
        switch format {
        case .hssl:
            // Measuring takes its time: what cannot be written is refused before.
            let target = try OutputTarget(output, needsSeeking: true)
            let source = try source()
            try refuseOverwriting(output, of: [source.path])
            let base = try source.prepared(precision, int8)
            try base.writeModel(to: output)
            if !target.isStraight { try writeCard(of: base, for: .hssl) }
            return base
        case .onnx:
            let source = try source()
            try refuseOverwriting(output, of: [source.path])
            let base = try source.writeOnnx(to: output, precision: precision, int8)
            if try !OutputTarget(output).isStraight { try writeCard(of: base, for: .onnx) }
            return base
        case .timm: return try exportFolder(.timm, .timm, int8)
        case .hf: return try exportFolder(.transformers, .transformers, int8)
        }
    }

    /// The card beside a model file.
    private func writeCard(of base: PreparedBase, for reader: ModelCard.Reader) throws {
        guard card else { return }
        let path = ModelCard.path(of: output)
        let card = ModelCard(base, for: reader, name: Self.name(of: output), byteCount: Self.size(of: output))
        if try !card.write(to: path) { print(Self.kept(path)) }
    }

    private static func kept(_ path: String) -> String {
        "note: \(oneLine(path, limit: 4096)) was not written by hssl export and is kept"
    }

    private static func name(of path: String) -> String { path.split(separator: "/").last.map(String.init) ?? path }

    private static func size(of path: String) -> Int {
        var status = stat()
        return path.withPath { stat($0, &status) } == 0 ? Int(status.st_size) : 0
    }

    private func exportFolder(
        _ library: HubExport.Library, _ reader: ModelCard.Reader, _ int8: Int8Options
    ) throws -> PreparedBase {
        // Measuring takes its time: what cannot be written is refused before, and who is stopped meanwhile leaves
        // nothing.
        try AtomicFolder(path: output, names: HubExport.names).abort()
        try refuseForeign(output + "/" + HubExport.weights)
        let source = try source()
        func hub(_ values: @escaping (String) throws -> [Float]) throws -> HubExport {
            do {
                return try HubExport(
                    library, source.architecture, source.preprocessing, precision: precision, values: values)
            } catch let error as ModelError {
                throw FileError(path: input, reason: "--format \(format.rawValue): \(error)")
            }
        }
        // Before int8 is measured: whether the library has such a network at all.
        _ = try hub(source.values)
        let base = try source.prepared(precision, int8)
        let export = try hub(base.values)
        let folder = try AtomicFolder(path: output, names: HubExport.names)
        try export.write(into: folder, metadata: base.metadata)
        if card {
            let size = Self.size(of: folder.path(of: HubExport.weights))
            let card = ModelCard(
                base, for: reader, name: Self.name(of: output), byteCount: size, notes: export.notes)
            let path = output + "/" + HubExport.card
            if try !card.write(to: folder.path(of: HubExport.card), inPlaceOf: path) { print(Self.kept(path)) }
        }
        try folder.commit()
        for note in export.notes { print("note: \(note)") }
        return base
    }

    /// A folder of the same names that somebody else filled, as a download is, is not ours to replace.
    private func refuseForeign(_ weights: String) throws {
        var status = stat()
        guard weights.withPath({ stat($0, &status) }) == 0 else { return }
        let metadata = (try? SafetensorsFile(path: weights, verifyingChecksum: false))?.metadata
        guard metadata?[ModelProvenance.key] != nil else {
            throw FileError(
                path: weights,
                reason: "was not written by hssl export, which would replace its folder: give another name")
        }
    }

    private func source() throws -> BaseSource {
        var status = stat()
        let isFolder = input.withPath { stat($0, &status) } == 0 && status.st_mode & S_IFMT == S_IFDIR
        if !isFolder, try BaseExport.isModel(input) { return try BaseSource(model: input) }
        return try BaseSource(
            checkpoint: isFolder ? input + "/checkpoint.safetensors" : input, role: network.rawValue)
    }
}

/// What `hssl export` writes.
enum ExportFormat: String, ExpressibleByArgument, CaseIterable {
    case hssl, timm, hf, onnx
}
