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
        let source = ValueSource(path: path, value: value)
        var tensors: [SafetensorsTensor] = []
        for parameter in trace.parameters.all {
            let (name, shape) = (parameter.name, parameter.shape)
            switch precision {
            case .float16: tensors.append(
                SafetensorsTensor(name: name, dtype: .float16, shape: shape) { try source.halves(parameter, $0) })
            case .int8 where policyWeights.contains(name):
                // Larger elements are written first: the scales before the codes, so each is quantised twice and none
                // is kept.
                tensors.append(
                    SafetensorsTensor(name: name, dtype: .int8, shape: shape) { try source.codes(parameter, $0) })
                tensors.append(
                    SafetensorsTensor(name: scaleName(name), dtype: .float32, shape: [shape[0], 1]) { try source.scales(parameter, $0) })
            case .float32,
                 .int8: tensors.append(
                     SafetensorsTensor(name: name, dtype: .float32, shape: shape) { try source.floats(parameter, $0) })
            }
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

/// Values of parameters in the types of a file.
private struct ValueSource {
    let path: String
    let value: (String, (UnsafeBufferPointer<Float>) throws -> Void) throws -> Void

    func floats(_ parameter: Parameter, _ sink: SafetensorsTensor.Sink) throws {
        try withValues(parameter) { values, _ in try sink(UnsafeRawBufferPointer(values)) }
    }

    func halves(_ parameter: Parameter, _ sink: SafetensorsTensor.Sink) throws {
        try withValues(parameter) { values, base in
            // 65520 is the least magnitude that rounds to infinity in binary16.
            if let index = values.firstIndex(where: { abs($0) >= 65_520 }) {
                throw refuse(parameter, "holds \(values[index]) at element \(index), beyond float16")
            }
            let halves = [UInt16](unsafeUninitializedCapacity: values.count) { halves, count in
                if let target = halves.baseAddress { hssl_convert_f32_f16(values.count, base, target) }
                count = values.count
            }
            try halves.withUnsafeBytes(sink)
        }
    }

    func codes(_ parameter: Parameter, _ sink: SafetensorsTensor.Sink) throws {
        try withQuantized(parameter) { codes, _ in try codes.withUnsafeBytes(sink) }
    }

    func scales(_ parameter: Parameter, _ sink: SafetensorsTensor.Sink) throws {
        try withQuantized(parameter) { _, scales in try scales.withUnsafeBytes(sink) }
    }

    private func withQuantized(_ parameter: Parameter, _ body: ([Int8], [Float]) throws -> Void) throws {
        try withValues(parameter) { values, base in
            let (outputs, inputs) = (parameter.shape[0], parameter.count / parameter.shape[0])
            var codes = [Int8](repeating: 0, count: values.count)
            var scales = [Float](repeating: 0, count: outputs)
            hssl_quantize_rows_s8(outputs, inputs, base, inputs, &codes, inputs, &scales)
            try body(codes, scales)
        }
    }

    private func withValues(
        _ parameter: Parameter, _ body: (UnsafeBufferPointer<Float>, UnsafePointer<Float>) throws -> Void
    ) throws {
        try value(parameter.name) { values in
            guard let base = values.baseAddress, values.count == parameter.count else {
                throw refuse(
                    parameter, "was given \(values.count) values, its shape \(parameter.shape) has \(parameter.count)")
            }
            guard hssl_all_finite(values.count, base) else { throw refuse(parameter, "holds NaN or infinity") }
            try body(values, base)
        }
    }

    private func refuse(_ parameter: Parameter, _ reason: String) -> FileError {
        FileError(path: path, reason: "tensor '\(parameter.name)' \(reason)")
    }
}
