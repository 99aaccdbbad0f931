import TestSupport
import XCTest

@testable import HSSLImport

/// What the fuzzer found of PyTorch's files: the first byte chooses whether the rest is an archive or its pickle.
final class CorpusTests: XCTestCase {
    func testPyTorchFiles() throws {
        let inputs = try Corpus.inputs("torch")
        var accepted = 0
        for (name, bytes) in inputs where !bytes.isEmpty {
            bytes.dropFirst().withUnsafeBytes { rest in
                let tensors: [TorchTensor]
                if bytes[0] & 1 == 0 {
                    guard let (content, storages) = try? TorchFile.read(rest) else { return }
                    tensors = content.tensors
                    for tensor in tensors { check(tensor, storages[tensor.storage.key]?.range.count ?? 0, name) }
                } else {
                    guard let content = try? PickleReader.read(rest) else { return }
                    tensors = content.tensors
                    for tensor in tensors { check(tensor, tensor.storage.count * tensor.storage.type.size, name) }
                }
                accepted += 1
            }
        }
        XCTAssertGreaterThan(accepted, 0)
        XCTAssertLessThan(accepted, inputs.count)
    }

    /// The last element lies in the storage.
    private func check(_ tensor: TorchTensor, _ bytes: Int, _ name: String) {
        guard tensor.count > 0 else { return }
        let last = zip(tensor.shape, tensor.strides).reduce(tensor.offset) { $0 + ($1.0 - 1) * $1.1 }
        XCTAssertLessThanOrEqual((last + 1) * tensor.type.size, bytes, name)
    }
}
