import CSupport
import HSSLFormats
import HSSLGraph

extension ModelFile {
    /// Writes a model file; atomically, one tensor at a time in memory.
    ///
    /// - Parameters:
    ///   - precision: float16 stores every tensor as binary16; int8 stores the weights that follow the precision policy
    ///     as codes with a scale per output channel and all else as float32.
    ///   - value: calls its second argument once with the row-major float32 values of the named parameter
    ///     (`blocks.0.attn.qkv.weight`; as timm).
    /// - Throws: `FileError`, where a value is not finite or overflows the stored type too; `ModelError`; what `value`
    ///   throws. The old file then stays as it was.
    package static func write(
        path: String, architecture: ModelArchitecture, preprocessing: Preprocessing, provenance: ModelProvenance,
        precision: Precision,
        value: @escaping (_ name: String, _ body: (UnsafeBufferPointer<Float>) throws -> Void) throws -> Void
    ) throws {
        try preprocessing.validate(for: architecture)
        let trace = ModelTrace(architecture)
        let policyWeights = trace.policyWeights
        let tensors = trace.parameters.all.flatMap { parameter in
            TensorValues(path: path, name: parameter.name, shape: parameter.shape) { try value(parameter.name, $0) }
                .tensors(precision, isCoded: policyWeights.contains(parameter.name))
        }
        try SafetensorsWriter.write(
            path: path, tensors: tensors,
            metadata: [
                "format": "pt", formatVersionKey: formatVersion, ModelArchitecture.key: architecture.json.text(),
                Preprocessing.key: preprocessing.json.text(), ModelProvenance.key: provenance.json.text(),
            ])
    }

    /// Writes the parameters of a network whose base is declared under `prefix` (`base.` in a student or teacher, empty
    /// for a model by itself).
    package static func write(
        path: String, architecture: ModelArchitecture, preprocessing: Preprocessing, provenance: ModelProvenance,
        precision: Precision, parameters: ParameterSet, prefix: String = ""
    ) throws {
        try write(
            path: path, architecture: architecture, preprocessing: preprocessing, provenance: provenance,
            precision: precision) { name, body in
            guard let parameter = parameters[prefix + name], parameter.isAllocated else {
                throw ModelError("the network has no parameter '\(prefix)\(name)'")
            }
            try parameter.deployedValues.withUnsafeBufferPointer(body)
        }
    }
}

/// Values of a parameter in the types of a file.
package struct TensorValues {
    /// Of the file, for errors.
    let path: String
    let name: String
    let shape: [Int]
    let value: ((UnsafeBufferPointer<Float>) throws -> Void) throws -> Void

    /// - Parameter value: calls its argument once with the row-major float32 values; asked for more than once where
    ///   they are quantised.
    package init(
        path: String, name: String, shape: [Int],
        value: @escaping (_ body: (UnsafeBufferPointer<Float>) throws -> Void) throws -> Void
    ) {
        (self.path, self.name, self.shape, self.value) = (path, name, shape, value)
    }

    /// - Parameter isCoded: whether it is a weight that int8 stores as codes with a scale a row.
    package func tensors(_ precision: Precision, isCoded: Bool) -> [SafetensorsTensor] {
        switch precision {
        case .float16: return [SafetensorsTensor(name: name, dtype: .float16, shape: shape, source: halves)]
        case .int8 where isCoded:
            // Larger elements are written first: the scales before the codes, so each is quantised twice and none is
            // kept.
            return [
                SafetensorsTensor(name: name, dtype: .int8, shape: shape, source: codes),
                SafetensorsTensor(
                    name: ModelFile.scaleName(name), dtype: .float32, shape: [shape[0], 1], source: scales),
            ]
        case .float32, .int8:
            return [SafetensorsTensor(name: name, dtype: .float32, shape: shape, source: floats)]
        }
    }

    private func floats(_ sink: SafetensorsTensor.Sink) throws {
        try withValues { values, _ in try sink(UnsafeRawBufferPointer(values)) }
    }

    private func halves(_ sink: SafetensorsTensor.Sink) throws {
        try withValues { values, base in
            // 65520 is the least magnitude that rounds to infinity in binary16.
            if let index = values.firstIndex(where: { abs($0) >= 65_520 }) {
                throw refuse("holds \(values[index]) at element \(index), beyond float16")
            }
            let halves = [UInt16](unsafeUninitializedCapacity: values.count) { halves, count in
                if let target = halves.baseAddress { hssl_convert_f32_f16(values.count, base, target) }
                count = values.count
            }
            try halves.withUnsafeBytes(sink)
        }
    }

    private func codes(_ sink: SafetensorsTensor.Sink) throws {
        try withQuantized { codes, _ in try codes.withUnsafeBytes(sink) }
    }

    private func scales(_ sink: SafetensorsTensor.Sink) throws {
        try withQuantized { _, scales in try scales.withUnsafeBytes(sink) }
    }

    private func withQuantized(_ body: ([Int8], [Float]) throws -> Void) throws {
        try withValues { values, base in
            let (outputs, inputs) = (shape[0], values.count / shape[0])
            var codes = [Int8](repeating: 0, count: values.count)
            var scales = [Float](repeating: 0, count: outputs)
            hssl_quantize_rows_s8(outputs, inputs, base, inputs, &codes, inputs, &scales)
            try body(codes, scales)
        }
    }

    private func withValues(_ body: (UnsafeBufferPointer<Float>, UnsafePointer<Float>) throws -> Void) throws {
        try value { values in
            guard values.count == shape.reduce(1, *), let base = values.baseAddress else {
                throw refuse("was given \(values.count) values, its shape is \(shape)")
            }
            guard hssl_all_finite(values.count, base) else { throw refuse("holds NaN or infinity") }
            try body(values, base)
        }
    }

    private func refuse(_ reason: String) -> FileError { FileError(path: path, reason: "tensor '\(name)' \(reason)") }
}
