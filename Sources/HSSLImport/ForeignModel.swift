import HSSLFormats
import HSSLGraph
import HSSLModels

/// A foreign checkpoint as a model of ours: which tensors become which, and how its images are prepared.
package struct ForeignModel {
    package let architecture: ModelArchitecture
    package var preprocessing: Preprocessing
    /// What was taken, renamed, folded and left out, and what was assumed, one line each.
    package let report: [String]

    package let path: String
    package private(set) var provenance: ModelProvenance
    /// Under which the weights may be used, as whoever imports them says; empty: nobody did.
    package var license: String {
        get { provenance.license }
        set { provenance.license = newValue }
    }
    private let loads: [String: () throws -> [Float]]

    /// Recognises the network and verifies every name and shape; values are read when the model is written.
    ///
    /// - Parameters:
    ///   - architecture: decides where names and shapes leave a doubt; nil: none is expected.
    ///   - source: whose code trained it, where several have the same names; nil: by what is in the file.
    ///   - imageSize: pixels a side; nil: as the source.
    /// - Throws: `FileError`, `SafetensorsError` or `ImportError`: one line naming file, tensor or flag.
    package init(path: String, architecture name: String? = nil, source: String? = nil, imageSize: Int? = nil) throws {
        self.path = path
        let checkpoint = try ForeignCheckpoint.open(path: path)
        if let name, !ModelArchitecture.names.contains(name) {
            throw ImportError(
                "--architecture: unknown architecture '\(oneLine(name))' (known: "
                + "\(ModelArchitecture.names.joined(separator: ", ")))"
            )
        }
        let network = try ForeignNetwork(checkpoint, source: source)
        let hub = try HubConfiguration(beside: path)
        var recognition = Recognition(network, hub, architecture: name, imageSize: imageSize)
        architecture = try recognition.architecture()
        var assembly = Assembly(network, nativeSize: recognition.nativeSize)
        loads = try assembly.values(of: architecture)

        let foreign = try hub.preprocessing(network.convention.preprocessing)
        let size = architecture.imageSize
        let resize = max(size, Int((Double(foreign.resize * size) / Double(foreign.crop)).rounded()))
        do {
            preprocessing = try Preprocessing(
                resize: resize, crop: size, interpolation: foreign.interpolation, mean: foreign.mean.map { Float($0) },
                std: foreign.std.map { Float($0) })
        } catch {
            throw FileError(path: path, reason: "\(foreign.file ?? "its preprocessing"): \(error.reason)")
        }
        let types = Set(network.entries.values.flatMap { $0.parts.values.map(\.type) }).sorted().joined(separator: ", ")
        var provenance = ModelProvenance(
            method: "imported (\(network.convention.name))", head: "none",
            data: path.split(separator: "/").last.map(String.init) ?? path, epochs: 0, precision: types,
            version: HSSLVersion.current)
        provenance.license = hub.license
        self.provenance = provenance

        var report = [
            "\(oneLine(path)): \(network.library.name) names, conventions of \(network.convention.name)"
                + (checkpoint.members.isEmpty
                    ? "" : ", in \(checkpoint.members.map { "'\(oneLine($0))'" }.joined(separator: " "))")
                + (network.prefix.isEmpty ? "" : ", prefix '\(oneLine(network.prefix))'") + ", \(types)"
        ]
        report.append("architecture: \(architecture.json.text())")
        report += assembly.lines
        report.append(
            "images: resize \(resize), crop \(size), \(foreign.interpolation.rawValue), "
            + "mean \(foreign.mean), std \(foreign.std), "
                + (foreign.file.map { "from \($0)" } ?? "as \(network.convention.name) by default"))
        report += recognition.notes.map { "note: \($0)" }
        self.report = report
    }

    /// Of a parameter of the model, row-major.
    ///
    /// - Throws: `FileError` for values that are not finite; what reading throws.
    package func values(_ name: String) throws -> [Float] {
        guard let load = loads[name] else { throw ModelError("the network has no parameter '\(name)'") }
        return try load()
    }
}
