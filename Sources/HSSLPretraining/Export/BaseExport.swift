import HSSLFormats
import HSSLGraph
import HSSLModels

/// The base model of a network as a deployable file: auxiliary head, projection and mask token stay behind.
public struct BaseExport {
    fileprivate let architecture: ModelArchitecture
    fileprivate let preprocessing: Preprocessing
    fileprivate let provenance: ModelProvenance

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
        provenance.schedule = .init(
            batchSize: recipe.schedule.effectiveBatch, learningRate: recipe.optimizer.learningRate,
            seed: recipe.schedule.seed)
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

    /// Writes a model file at another precision.
    ///
    /// - Parameter int8: how an int8 file is measured and smoothed.
    /// - Returns: of int8 from another precision, how near it is.
    /// - Throws: errors naming the file: not a model, or one whose weights are rounded to int8 already.
    @discardableResult
    public static func export(
        model path: String, to output: String, precision: Precision, int8: Int8Options = Int8Options()
    ) throws -> Int8Measurement? {
        try write(BaseSource(model: path), to: output, precision: precision, int8)
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
        try write(BaseSource(checkpoint: path, role: role), to: output, precision: precision, int8)
    }

    private static func write(
        _ source: BaseSource, to output: String, precision: Precision, _ int8: Int8Options
    ) throws -> Int8Measurement? {
        // Measuring takes its time: what cannot be written is refused before.
        _ = try OutputTarget(output, needsSeeking: true)
        let base = try source.prepared(precision, int8)
        try base.writeModel(to: output)
        return base.measurement
    }
}

/// A base that is to be exported: what it is and where its values are.
package struct BaseSource {
    package let path: String
    package let architecture: ModelArchitecture
    package let preprocessing: Preprocessing
    package let provenance: ModelProvenance
    /// Epochs that the run has done and those of its recipe, where some are left; nil for a model file.
    package let unfinished: (done: Int, of: Int)?
    /// Of a model file.
    private let precision: Precision?
    /// Of a parameter, row-major.
    package let values: (String) throws -> [Float]

    /// A model of another library.
    ///
    /// - Parameter values: of a parameter of the deployed model, row-major.
    package init(
        path: String, architecture: ModelArchitecture, preprocessing: Preprocessing, provenance: ModelProvenance,
        values: @escaping (String) throws -> [Float]
    ) {
        (self.path, self.architecture, self.preprocessing) = (path, architecture, preprocessing)
        (self.provenance, self.values, precision, unfinished) = (provenance, values, nil, nil)
    }

    /// - Throws: errors naming the file: not a model.
    package init(model path: String) throws {
        let model = try ModelFile(path: path)
        self.path = path
        (architecture, preprocessing, provenance) = (model.architecture, model.preprocessing, model.provenance)
        (precision, values, unfinished) = (model.precision, model.values, nil)
    }

    /// - Parameter role: `teacher` or `student`, which stands in where there is no teacher.
    /// - Throws: errors naming the file: not a checkpoint, another architecture than its recipe says.
    package init(checkpoint path: String, role: String) throws {
        let file = try SafetensorsFile(path: path)
        let position = try Checkpoint.position(of: file)
        guard position.search == nil else {
            throw PretrainingError("\(path): is a search's; pretrain its recipe.yaml and export that run")
        }
        let recipe = try Recipe.parseStored(position.recipe, file: path, architectures: ModelArchitecture.names)
        let settings = recipe.objectiveSettings
        let role = settings.hasTeacher(hasAuxiliary: recipe.auxiliary.isEnabled) ? role : "student"
        let export: BaseExport, shapes: ParameterSet
        do {
            export = try BaseExport(
                recipe: recipe, datasetName: position.datasetName, epochs: position.epoch, teacher: position.teacher)
            shapes = try Network(NetworkSizes(recipe: recipe)).parameters
        } catch let error as ModelError {
            throw FileError(path: path, reason: "its recipe: \(error)")
        }
        self.path = path
        (architecture, preprocessing, provenance) = (export.architecture, export.preprocessing, export.provenance)
        precision = nil
        let epochs = recipe.schedule.epochs
        unfinished = position.epoch < epochs ? (position.epoch, epochs) : nil
        values = { name in
            guard let parameter = shapes["base." + name] else {
                throw ModelError("the architecture has no parameter '\(name)'")
            }
            let values = try file.floats("\(role).base.\(name)", shape: parameter.shape)
            return parameter.deployedForm.values(values, shape: parameter.shape)
        }
    }

    /// - Throws: `PretrainingError` for int8 codes that are asked to be more.
    package func checkPrecision(_ wanted: Precision) throws {
        if precision == .int8, wanted != .int8 {
            throw PretrainingError(
                "\(path): its weights are int8 codes; export \(wanted.rawValue) from the float32 model")
        }
    }

    /// The values at a precision; int8 is measured, and its channels' scales moved where that helps.
    ///
    /// - Throws: `PretrainingError` for int8 codes that are asked to be more; what reading throws.
    package func prepared(_ wanted: Precision, _ options: Int8Options) throws -> PreparedBase {
        try checkPrecision(wanted)
        let measurement = wanted == .int8 && precision != .int8
            ? try Int8Measurement(architecture, preprocessing, options, path: path, values: values) : nil
        return prepared(wanted, measured: measurement)
    }

    /// The values at a precision; of int8 with what was measured.
    package func prepared(_ wanted: Precision, measured: Int8Measurement?) -> PreparedBase {
        PreparedBase(source: self, precision: wanted, measurement: measured)
    }
}

/// A base as it is written.
package struct PreparedBase {
    package let source: BaseSource
    package let precision: Precision
    /// Of int8 that was made here.
    package let measurement: Int8Measurement?
    package let provenance: ModelProvenance
    private let shapes: ParameterSet

    fileprivate init(source: BaseSource, precision: Precision, measurement: Int8Measurement?) {
        (self.source, self.precision, self.measurement) = (source, precision, measurement)
        var provenance = source.provenance
        if let measurement { provenance.int8 = measurement.figures }
        self.provenance = provenance
        shapes = ModelTrace(source.architecture).parameters
    }

    /// Of a parameter of the deployed model, row-major.
    package func values(_ name: String) throws -> [Float] {
        let plain = try source.values(name)
        return measurement?.scaling.map { $0.values(plain, of: name, shape: shapes[name]?.shape ?? []) } ?? plain
    }

    /// For files of other formats: where the model is from.
    package var metadata: [String: String] {
        [ModelProvenance.key: provenance.json.text()]
    }

    package func writeModel(to output: String) throws {
        try ModelFile.write(
            path: output, architecture: source.architecture, preprocessing: source.preprocessing,
            provenance: provenance, precision: precision
        ) { name, body in
            try values(name).withUnsafeBufferPointer(body)
        }
    }
}
