import HSSLFormats
import HSSLGraph
import HSSLModels

/// The base model of a network as a deployable file: auxiliary head, projection and mask token stay behind.
public struct BaseExport {
    private let architecture: ModelArchitecture
    private let preprocessing: Preprocessing
    private let provenance: ModelProvenance

    package init(recipe: Recipe, datasetName: String, epochs: Int, teacher: ModelProvenance.Teacher? = nil) throws {
        architecture = try NetworkSizes(recipe: recipe).base
        preprocessing = try Preprocessing(recipe: recipe)
        let hasHead = recipe.auxiliary.isEnabled
        let origin = recipe.model.initializeFrom
            .map { ", from \($0.split(separator: "/").last.map(String.init) ?? $0)" } ?? ""
        var provenance = ModelProvenance(
            method: (hasHead ? "hssl (\(recipe.objective.name))" : recipe.objective.name) + origin,
            head: hasHead ? "\(recipe.auxiliary.family)\(recipe.auxiliary.depth)" : "none", data: datasetName,
            epochs: epochs, precision: recipe.schedule.precision.rawValue, version: HSSLVersion.current)
        provenance.teacher = teacher
        self.provenance = provenance
    }

    package func write(_ network: Network, to path: String, precision: Precision) throws {
        try ModelFile.write(
            path: path, architecture: architecture, preprocessing: preprocessing, provenance: provenance,
            precision: precision, parameters: network.parameters, prefix: "base.")
    }

    /// Whether a safetensors file is a deployed model, by its metadata.
    public static func isModel(_ path: String) throws -> Bool { try ModelFile.isModel(SafetensorsFile(path: path)) }

    /// Whom the model of a file was distilled from: file, precision, licence, hash; nil: nobody.
    public static func teacherSummary(of path: String) throws -> String? {
        // A model may have gone into a pipe.
        try OutputTarget(path).isStraight ? nil : ModelFile(path: path).provenance.teacher?.summary
    }

    /// Writes a model file at another precision.
    ///
    /// - Parameter int8: how an int8 file is measured and smoothed.
    /// - Returns: of int8 from another precision, how near it is.
    /// - Throws: errors naming the file: not a model, or one whose weights are rounded to int8 already.
    @discardableResult
    public static func export(
        model path: String, to output: String, precision: Precision, int8: Int8Options = Int8Options()
    ) throws -> Int8Measurement? {
        let model = try ModelFile(path: path)
        if model.precision == .int8, precision != .int8 {
            throw PretrainingError(
                "\(path): its weights are int8 codes; export \(precision.rawValue) from the float32 model")
        }
        let source = Source(
            architecture: model.architecture, preprocessing: model.preprocessing, provenance: model.provenance,
            isQuantized: model.precision == .int8, values: model.values)
        return try source.write(to: output, precision: precision, int8)
    }

    /// Exports from a checkpoint file, reading only the tensors of the base.
    ///
    /// - Parameters:
    ///   - role: `teacher` or `student`, which stands in where there is no teacher.
    ///   - int8: how an int8 file is measured and smoothed.
    /// - Returns: of int8, how near it is.
    /// - Throws: errors naming the file: not a checkpoint, another architecture than its recipe says, values that are
    ///   not finite.
    @discardableResult
    public static func export(
        checkpoint path: String, role: String, to output: String, precision: Precision,
        int8: Int8Options = Int8Options()
    ) throws -> Int8Measurement? {
        let file = try SafetensorsFile(path: path)
        let position = try Checkpoint.position(of: file)
        guard position.search == nil else {
            throw PretrainingError("\(path): is a search's; pretrain its recipe.yaml and export that run")
        }
        let recipe = try Recipe.parseStored(position.recipe, file: path, architectures: ModelArchitecture.names)
        let export = try BaseExport(
            recipe: recipe, datasetName: position.datasetName, epochs: position.epoch, teacher: position.teacher)
        let settings = recipe.objectiveSettings
        let role = settings.hasTeacher(hasAuxiliary: recipe.auxiliary.isEnabled) ? role : "student"
        let shapes = try Network(NetworkSizes(recipe: recipe)).parameters
        let source = Source(
            architecture: export.architecture, preprocessing: export.preprocessing, provenance: export.provenance,
            isQuantized: false) { name in
            guard let parameter = shapes["base." + name] else {
                throw ModelError("the architecture has no parameter '\(name)'")
            }
            let values = try file.floats("\(role).base.\(name)", shape: parameter.shape)
            return parameter.deployedForm.values(values, shape: parameter.shape)
        }
        return try source.write(to: output, precision: precision, int8)
    }

    /// A deployed model that is to be written.
    private struct Source {
        let architecture: ModelArchitecture
        let preprocessing: Preprocessing
        var provenance: ModelProvenance
        /// Its weights are int8 codes: there is nothing better to measure against.
        let isQuantized: Bool
        /// Of a parameter, row-major.
        let values: (String) throws -> [Float]

        func write(to output: String, precision: Precision, _ options: Int8Options) throws -> Int8Measurement? {
            // Measuring takes its time: what cannot be written is refused before.
            _ = try OutputTarget(output, needsSeeking: true)
            var provenance = provenance
            let measurement = precision == .int8 && !isQuantized
                ? try Int8Measurement(architecture, preprocessing, options, values: values) : nil
            if let measurement { provenance.int8 = measurement.figures }
            let shapes = ModelTrace(architecture).parameters
            try ModelFile.write(
                path: output, architecture: architecture, preprocessing: preprocessing, provenance: provenance,
                precision: precision
            ) { name, body in
                let plain = try values(name)
                let written = measurement?.scaling.map {
                    $0.values(plain, of: name, shape: shapes[name]?.shape ?? [])
                } ?? plain
                try written.withUnsafeBufferPointer(body)
            }
            return measurement
        }
    }
}
