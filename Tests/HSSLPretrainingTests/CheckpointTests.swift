import Foundation
import HSSLFormats
import XCTest

@testable import HSSLPretraining

/// Damaged and foreign checkpoints: an error that names the file, or exactly the state that was saved.
final class CheckpointTests: TrainerTestCase {
    private var path: String { root + "/run/checkpoint.safetensors" }

    private func write(_ bytes: Data) throws { try bytes.write(to: URL(fileURLWithPath: path)) }

    /// The checkpoint under another name: a mapped file must not change while it is read.
    private func copy() throws -> String {
        try FileManager.default.copyItem(atPath: path, toPath: root + "/copy.safetensors")
        return root + "/copy.safetensors"
    }

    private func headerLength(_ bytes: Data) -> Int {
        8 + bytes.prefix(8).enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }
    }

    func testTruncationIsRejected() throws {
        try train(recipe(), "run", maxSteps: 2)
        let whole = try checkpoint("run")
        let header = headerLength(whole)
        for length in [0, 1, 7, 8, 9, header / 2, header - 1, header, header + 1, whole.count / 2, whole.count - 1] {
            try write(whole.prefix(length))
            let text = message { try train(recipe(), "run", resume: true) }
            XCTAssertTrue(text.hasPrefix("ROOT/run/checkpoint.safetensors: "), "\(length) bytes: \(text)")
            XCTAssertFalse(text.contains("\n"))
        }
        try write(whole + Data([0]))
        XCTAssertTrue(message { try train(recipe(), "run", resume: true) }.hasPrefix(
            "ROOT/run/checkpoint.safetensors: "))
        try write(whole)
        XCTAssertEqual(message { try train(recipe(), "run", resume: true) }, "accepted")
    }

    /// Bits all over the file: in the metadata text, among the tensors' names and offsets, in the lengths and in the
    /// data.
    func testFlippedBitsAreRejectedOrHarmless() throws {
        try train(recipe(), "run", maxSteps: 2)
        let whole = try checkpoint("run")
        let position = try Checkpoint.position(of: SafetensorsFile(path: path))
        let header = headerLength(whole)
        let start = try XCTUnwrap(whole.range(of: Data("__metadata__".utf8))).lowerBound
        let end = try XCTUnwrap(whole.range(of: Data("\"}".utf8), in: start..<header)).upperBound
        let learner = try Learner(recipe: recipe())
        let handle = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        var rejected = 0
        var harmless: [String] = []
        func check(byte: Int, bit: Int, metadataOnly: Bool = false) throws {
            func set(_ value: UInt8) throws {
                try handle.seek(toOffset: UInt64(byte))
                try handle.write(contentsOf: Data([value]))
            }
            try set(whole[byte] ^ 1 << UInt8(bit))
            defer { try? set(whole[byte]) }
            do {
                let file = try SafetensorsFile(path: path, verifyingChecksum: !metadataOnly)
                var found = try Checkpoint.position(of: file)
                if !metadataOnly { try Checkpoint.load(file, into: learner) }
                // An entry that older builds did not write may lose its name, with the checksum that names it.
                found.datasetDigest = position.datasetDigest
                XCTAssertEqual(found, position, "bit \(bit) of byte \(byte) changed the position")
                XCTAssertLessThan(byte, header, "a flipped bit of the data went unseen")
                harmless.append(String(decoding: whole[max(0, byte - 8)..<min(whole.count, byte + 8)], as: UTF8.self))
            } catch {
                XCTAssertTrue("\(error)".hasPrefix(path + ": "), "\(error)")
                rejected += 1
            }
        }
        for byte in start..<end { try check(byte: byte, bit: byte % 7, metadataOnly: true) }
        for byte in stride(from: 0, to: header, by: header / 12) { try check(byte: byte, bit: 1) }
        for byte in stride(from: header, to: whole.count, by: whole.count / 8) { try check(byte: byte, bit: byte % 8) }
        XCTAssertGreaterThan(end - start, 1_500)
        XCTAssertGreaterThan(rejected, end - start - 60)
        XCTAssertLessThan(harmless.count, 60, "flips that change nothing are those of checksum names: \(harmless)")
    }

    func testContradictingMetadataIsRefused() throws {
        try train(recipe(), "run", maxSteps: 2)
        let file = try SafetensorsFile(path: copy())
        let tensors = file.tensors.map {
            SafetensorsTensor(name: $0.name, dtype: $0.dtype, shape: $0.shape, bytes: $0.bytes)
        }
        func with(_ changes: [String: String]) throws -> String {
            var metadata = file.metadata
            metadata["hssl.metadata_crc32c"] = nil
            metadata["hssl.crc32c"] = nil
            for (key, value) in changes { metadata[key] = value }
            let other = root + "/other.safetensors"
            try SafetensorsWriter.write(path: other, tensors: tensors, metadata: metadata)
            try write(Data(contentsOf: URL(fileURLWithPath: other)))
            return message { _ = try trainer(recipe(), "run", resume: true) }
        }
        XCTAssertEqual(try with([:]), "accepted", "a file without the second checksum is one of an earlier build")
        XCTAssertEqual(
            try with(["hssl.micro_batch": "0"]), "ROOT/run/checkpoint.safetensors: metadata 'hssl.micro_batch' is 0")
        for changes in [
            ["hssl.step": "3"], ["hssl.step": "9000000000000000000"], ["hssl.micro_batch": "9000000000000000000"],
            ["hssl.sampler_position": "1"],
                        ["hssl.epoch": "7"], ["hssl.seed": "5"]] {
            let text = try with(changes)
            XCTAssertTrue(
                text.hasPrefix("ROOT/run/checkpoint.safetensors: its metadata contradict its recipe"),
                "\(changes): \(text)")
        }
        XCTAssertTrue(try with(["hssl.step": "-1"]).contains("metadata 'hssl.step' is not a count"))
        XCTAssertTrue(try with(["hssl.checkpoint_version": "2"]).contains("checkpoint version 2 is not 1"))
        XCTAssertTrue(try with(["hssl.metadata_crc32c": "00000000"]).contains("the metadata are damaged"))
    }

    /// 8-bit moments: written as codes and scales, read back to the bit, refused when they are damaged or of the other
    /// kind.
    func testCodedMoments() throws {
        let recipe = try recipe("optimizer.states=int8")
        try train(recipe, "run", maxSteps: 2)
        let file = try SafetensorsFile(path: copy())
        let weight =
            "base.blocks.0.attn.qkv.weight", small = "auxiliary.blocks.0.dwconv.weight",
            bias = "base.blocks.0.mlp.fc1.bias"
        XCTAssertEqual(try file.tensor("optimizer.exp_avg." + weight).dtype, .uint8)
        XCTAssertEqual(try file.tensor("optimizer.exp_avg_sq." + weight).shape, [288, 96])
        XCTAssertEqual(try file.tensor("optimizer.exp_avg_sq_scale." + weight).shape, [14])
        for name in [small, bias] { XCTAssertEqual(try file.tensor("optimizer.exp_avg." + name).dtype, .float32, name) }
        XCTAssertFalse(file.contains("optimizer.exp_avg_scale." + small))
        let learner = try Learner(recipe: recipe)
        try Checkpoint.load(file, into: learner)
        let again = root + "/again.safetensors"
        try Checkpoint.save(learner, position: Checkpoint.position(of: file), to: again)
        XCTAssertTrue(
            try Data(contentsOf: URL(fileURLWithPath: again)) == checkpoint("run"), "a round trip changed the file")

        func with(_ name: String, _ tensor: SafetensorsTensor?) throws -> String {
            let other = root + "/other.safetensors"
            let kept = file.tensors.filter { $0.name != name }.map {
                SafetensorsTensor(name: $0.name, dtype: $0.dtype, shape: $0.shape, bytes: $0.bytes)
            }
            var metadata = file.metadata
            metadata["hssl.crc32c"] = nil
            try SafetensorsWriter.write(path: other, tensors: kept + (tensor.map { [$0] } ?? []), metadata: metadata)
            try write(Data(contentsOf: URL(fileURLWithPath: other)))
            return message { _ = try trainer(recipe, "run", resume: true) }
        }
        let scale = "optimizer.exp_avg_sq_scale." + weight, codes = "optimizer.exp_avg." + weight
        func scales(_ value: Float) -> SafetensorsTensor {
            SafetensorsTensor(name: scale, shape: [14], values: [Float](repeating: value, count: 14))
        }
        XCTAssertEqual(try with(scale, scales(0.5)), "accepted")
        for (value, reason) in [(-1, "has a negative scale"), (Float.nan, scale), (.infinity, scale)] {
            let text = try with(scale, scales(value))
            XCTAssertTrue(
                text.hasPrefix("ROOT/run/checkpoint.safetensors: ") && text.contains(reason), "\(value): \(text)")
        }
        XCTAssertTrue(try with(
            scale, SafetensorsTensor(name: scale, shape: [13], values: [Float](repeating: 1, count: 13)))
            .contains(scale))
        XCTAssertTrue(try with(scale, nil).contains(scale))
        let floats = try with(
            codes, SafetensorsTensor(name: codes, shape: [288, 96], values: [Float](repeating: 0, count: 288 * 96)))
        XCTAssertTrue(floats.contains(codes) && floats.contains("U8") && floats.contains("F32"), floats)
        let bytes = try with(
            "optimizer.exp_avg." + bias,
            SafetensorsTensor(
                name: "optimizer.exp_avg." + bias, shape: [384], values: [UInt8](repeating: 1, count: 384)))
        XCTAssertTrue(bytes.contains(bias) && bytes.contains("U8"), bytes)
        XCTAssertTrue(try with(
            "", SafetensorsTensor(name: "optimizer.exp_avg_scale."
            + bias, shape: [1], values: [Float(1)])).contains("unexpected tensor"))
    }

    func testMissingUnexpectedAndMisshapenTensors() throws {
        try train(recipe(), "run", maxSteps: 2)
        let file = try SafetensorsFile(path: copy())
        let tensors = file.tensors.map {
            SafetensorsTensor(name: $0.name, dtype: $0.dtype, shape: $0.shape, bytes: $0.bytes)
        }
        func with(_ changed: [SafetensorsTensor]) throws -> String {
            let other = root + "/other.safetensors"
            var metadata = file.metadata
            metadata["hssl.crc32c"] = nil
            try SafetensorsWriter.write(path: other, tensors: changed, metadata: metadata)
            try write(Data(contentsOf: URL(fileURLWithPath: other)))
            return message { _ = try trainer(recipe(), "run", resume: true) }
        }
        XCTAssertEqual(try with(tensors), "accepted")
        // One of each kind of tensor.
        for name in [
            "student.base.mask_token", "teacher.base.blocks.3.mlp.fc2.bias", "student.auxiliary.norm.weight",
            "optimizer.step.base.norm.bias",
                     "optimizer.exp_avg.head.prototypes.weight_v", "optimizer.exp_avg_sq.base.cls_token", "center.cls",
                     "center.patch"] {
            XCTAssertTrue(file.contains(name), "the checkpoint has no \(name)")
            let text = try with(tensors.filter { $0.name != name })
            XCTAssertTrue(
                text.hasPrefix("ROOT/run/checkpoint.safetensors: ") && text.contains(name), "\(name): \(text)")
        }
        XCTAssertEqual(
            try with(tensors + [SafetensorsTensor(name: "student.base.extra", shape: [1], values: [Float(0)])]),
            "ROOT/run/checkpoint.safetensors: unexpected tensor 'student.base.extra' for this recipe's architecture")
        let flat = tensors.map {
            $0.name == "center.cls"
                ? SafetensorsTensor(name: $0.name, shape: [17], values: [Float](repeating: 0, count: 17)) : $0
        }
        XCTAssertTrue(try with(flat).contains("center.cls"))
        let poisoned = tensors.map {
            $0.name == "center.cls"
                ? SafetensorsTensor(name: $0.name, shape: [16], values: [Float](repeating: .nan, count: 16)) : $0
        }
        XCTAssertTrue(try with(poisoned).contains("center.cls"))
    }
}
