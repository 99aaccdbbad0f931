import CSupport
import HSSLFormats
import HSSLGraph
import HSSLModels

/// The file from which a run continues bit for bit: weights, moments, what the objective learns besides (centres), and
/// where the sampler stood.
///
/// All random draws are counter-based, so (seed, step) is the random state.
package struct Checkpoint {
    package static let formatVersion = "1"

    /// What the metadata hold.
    package struct Position: Equatable, Sendable {
        /// Updates done.
        package var step: Int
        package var epoch: Int
        /// Images taken from the epoch's permutation.
        package var samplerPosition: Int
        package var seed: UInt64
        /// Images of one micro-batch: rounding depends on it.
        package var microBatch: Int
        package var skippedSteps: Int
        /// Images of the data set, by which a resumed run recognises it.
        package var datasetCount: Int
        /// Of its labels and of some images; nil in files from before it was kept.
        package var datasetDigest: String?
        /// Its name, for the provenance of an exported model.
        package var datasetName: String
        /// Resolved recipe, YAML.
        package var recipe: String
        /// Of a search; nil in a pretraining run.
        package var search: SearchIdentity?
        /// Of a distillation, and the draws of an image where they come from a bank.
        package var teacher: ModelProvenance.Teacher?
        package var draws: Int?
    }

    /// Writes atomically: a reader finds the old file or the new one, whole.
    package static func save(_ learner: Learner, position: Position, to path: String) throws {
        var tensors: [SafetensorsTensor] = []
        let parts = learner.checkpointParts
        for part in parts { append(part, to: &tensors) }
        guard parts.allSatisfy(isFinite) else {
            throw PretrainingError(
                "\(path): step \(position.step) left weights that are not finite; the file stays as it was")
        }
        var metadata = [
            "format": "pt", ModelFile.checkpointVersionKey: formatVersion, "hssl.step": "\(position.step)",
            "hssl.epoch": "\(position.epoch)",
            "hssl.sampler_position": "\(position.samplerPosition)",
            "hssl.random_state": "philox4x32-10 seed \(position.seed) step \(position.step)",
            "hssl.seed": "\(position.seed)", "hssl.micro_batch": "\(position.microBatch)",
            "hssl.skipped_steps": "\(position.skippedSteps)",
            "hssl.dataset_count": "\(position.datasetCount)", "hssl.dataset_name": position.datasetName,
            "hssl.recipe": position.recipe,
        ]
        metadata["hssl.dataset_digest"] = position.datasetDigest
        for (key, value) in position.search?.metadata ?? [] { metadata[key] = value }
        metadata[teacherKey] = position.teacher?.json.text()
        metadata[drawsKey] = position.draws.map(String.init)
        metadata[metadataChecksumKey] = checksum(of: metadata)
        try SafetensorsWriter.write(path: path, tensors: tensors, metadata: metadata)
    }

    private static func append(_ part: CheckpointPart, to tensors: inout [SafetensorsTensor]) {
        for (parameters, role) in part.networks {
            for parameter in parameters.all {
                tensors.append(floats(part.prefix + role + parameter.name, parameter.shape, parameter.values))
            }
        }
        for (parameter, state) in zip(part.optimizer.parameters, part.optimizer.states) {
            func name(_ kind: String) -> String { part.optimizerName(kind, parameter) }
            switch state.moments {
            case .float32(let first, let second):
                for (kind, moment) in [("exp_avg", first), ("exp_avg_sq", second)] {
                    tensors.append(floats(name(kind), parameter.shape, moment.floats))
                }
            case .int8(let first, let second):
                for (kind, moment) in [("exp_avg", first), ("exp_avg_sq", second)] {
                    tensors.append(SafetensorsTensor(
                        name: name(kind), dtype: .uint8, shape: parameter.shape,
                        bytes: UnsafeRawBufferPointer(start: moment.codes.pointer, count: parameter.count)))
                    tensors.append(floats(
                        name(kind + "_scale"), [AdamW.blocks(parameter.count)], moment.scale.floats))
                }
            }
            tensors.append(SafetensorsTensor(name: name("step"), shape: [1], values: [Int64(state.step)]))
        }
        for (name, values) in part.state {
            tensors.append(SafetensorsTensor(name: part.prefix + name, shape: [values.count], values: values))
        }
    }

    /// CRC-32C of the other metadata: `hssl.crc32c` covers the tensors alone, and a run must not go on from a damaged
    /// step or seed.
    private static let metadataChecksumKey = "hssl.metadata_crc32c"

    private static func checksum(of metadata: [String: String]) -> String {
        var checksum = CRC32C()
        for key in metadata.keys.sorted() where key != metadataChecksumKey && key != SafetensorsFile.checksumKey {
            Array("\(key)\0\(metadata[key] ?? "")\0".utf8).withUnsafeBytes { checksum.update($0) }
        }
        return checksum.hexadecimal
    }

    /// Weights, state and moments that could be loaded again.
    private static func isFinite(_ part: CheckpointPart) -> Bool {
        let weights = part.networks.flatMap(\.parameters.all).allSatisfy { hssl_all_finite($0.count, $0.values) }
        return weights && part.state.allSatisfy { $0.values.allSatisfy(\.isFinite) }
            && zip(part.optimizer.parameters, part.optimizer.states).allSatisfy { parameter, state in
                switch state.moments {
                case .float32(let first, let second):
                    [first, second].allSatisfy { hssl_all_finite(parameter.count, $0.floats) }
                case .int8(let first, let second):
                    [first, second].allSatisfy { hssl_all_finite(AdamW.blocks(parameter.count), $0.scale.floats) }
                }
            }
    }

    private static func floats(_ name: String, _ shape: [Int], _ values: UnsafeMutablePointer<Float>)
        -> SafetensorsTensor
    {
        SafetensorsTensor(
            name: name, dtype: .float32, shape: shape,
            bytes: UnsafeRawBufferPointer(start: values, count: shape.reduce(1, *) * MemoryLayout<Float>.stride))
    }

    /// Metadata alone: what a resumed run needs before it can build the networks.
    package static func position(of file: SafetensorsFile) throws -> Position {
        func text(_ key: String) throws -> String {
            guard let value = file.metadata[key] else {
                throw FileError(path: file.path, reason: "is no checkpoint: metadata '\(key)' is missing")
            }
            return value
        }
        func number(_ key: String) throws -> Int {
            guard let value = Int(try text(key)), value >= 0 else {
                throw FileError(path: file.path, reason: "metadata '\(key)' is not a count")
            }
            return value
        }
        if let recorded = file.metadata[metadataChecksumKey], recorded != checksum(of: file.metadata) {
            throw FileError(
                path: file.path,
                reason:
                    "the metadata are damaged: their checksum is \(checksum(of: file.metadata)), not "
                    + "\(oneLine(recorded))"
            )
        }
        let version = try text(ModelFile.checkpointVersionKey)
        guard version == formatVersion else {
            throw FileError(path: file.path, reason: "checkpoint version \(oneLine(version)) is not \(formatVersion)")
        }
        guard let seed = UInt64(try text("hssl.seed")) else {
            throw FileError(path: file.path, reason: "metadata 'hssl.seed' is not a number")
        }
        let microBatch = try number("hssl.micro_batch")
        guard microBatch > 0 else { throw FileError(path: file.path, reason: "metadata 'hssl.micro_batch' is 0") }
        return Position(
            step: try number("hssl.step"), epoch: try number("hssl.epoch"),
            samplerPosition: try number("hssl.sampler_position"), seed: seed,
            microBatch: microBatch, skippedSteps: try number("hssl.skipped_steps"),
            datasetCount: try number("hssl.dataset_count"), datasetDigest: file.metadata["hssl.dataset_digest"],
            datasetName: try text("hssl.dataset_name"), recipe: try text("hssl.recipe"),
            search: try SearchIdentity(of: file), teacher: try teacher(of: file),
            draws: file.metadata[drawsKey] == nil ? nil : try number(drawsKey))
    }

    private static let (teacherKey, drawsKey) = ("hssl.teacher", "hssl.teacher_draws")

    private static func teacher(of file: SafetensorsFile) throws -> ModelProvenance.Teacher? {
        guard let text = file.metadata[teacherKey] else { return nil }
        do { return try ModelProvenance.Teacher(json: JSONValue.parse(text)) } catch {
            throw FileError(path: file.path, reason: "metadata '\(teacherKey)': \(error)")
        }
    }

    /// Reads every tensor into `learner`. A missing, unexpected or misshapen tensor is an error and leaves `learner`
    /// unusable.
    package static func load(_ file: SafetensorsFile, into learner: Learner) throws {
        var expected: Set<String> = []
        for part in learner.checkpointParts { try load(file, into: part, expected: &expected) }
        if let stranger = file.names.first(where: { !expected.contains($0) }) {
            throw FileError(
                path: file.path, reason: "unexpected tensor '\(oneLine(stranger))' for this recipe's architecture")
        }
    }

    private static func load(_ file: SafetensorsFile, into part: CheckpointPart, expected: inout Set<String>) throws {
        for (parameters, role) in part.networks {
            for parameter in parameters.all {
                let name = part.prefix + role + parameter.name
                expected.insert(name)
                try read(name, parameter.shape, from: file, into: parameter.values)
                parameter.valuesDidChange()
            }
        }
        for (parameter, state) in zip(part.optimizer.parameters, part.optimizer.states) {
            func name(_ kind: String) -> String {
                let name = part.optimizerName(kind, parameter)
                expected.insert(name)
                return name
            }
            switch state.moments {
            case .float32(let first, let second):
                try read(name("exp_avg"), parameter.shape, from: file, into: first.floats)
                try read(name("exp_avg_sq"), parameter.shape, from: file, into: second.floats)
            case .int8(let first, let second):
                for (kind, moment) in [("exp_avg", first), ("exp_avg_sq", second)] {
                    // Any byte is a code.
                    let codes = try file.values(name(kind), as: UInt8.self, shape: parameter.shape)
                    moment.codes.bytes.update(from: codes, count: codes.count)
                    let scale = name(kind + "_scale"), blocks = AdamW.blocks(parameter.count)
                    try read(scale, [blocks], from: file, into: moment.scale.floats)
                    guard (0..<blocks).allSatisfy({ moment.scale.floats[$0] >= 0 }) else {
                        throw FileError(path: file.path, reason: "tensor '\(scale)' has a negative scale")
                    }
                }
            }
            let count = name("step")
            guard let step = try file.values(count, as: Int64.self, shape: [1]).first, step >= 0 else {
                throw FileError(path: file.path, reason: "tensor '\(count)' is not a count")
            }
            state.step = Int(step)
        }
        for (name, values) in part.state {
            expected.insert(part.prefix + name)
            part.restore(name, try file.floats(part.prefix + name, shape: [values.count]))
        }
    }

    private static func read(
        _ name: String, _ shape: [Int], from file: SafetensorsFile, into values: UnsafeMutablePointer<Float>
    ) throws {
        try file.floats(name, shape: shape).withUnsafeBufferPointer { source in
            if let start = source.baseAddress { values.update(from: start, count: source.count) }
        }
    }
}
