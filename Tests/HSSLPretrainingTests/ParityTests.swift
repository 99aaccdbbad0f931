import Foundation
import HSSLFormats
import HSSLGraph
import HSSLModels
import XCTest

@testable import HSSLPretraining

/// Whole training steps against float64 trajectories of the reference (docs/method.md, "Bounds of the parity tests"):
/// losses, logits, every gradient, and where student, teacher and centres end.
///
/// Also runs every `*.safetensors` in the folder named by `HSSL_FIXTURES`.
final class ParityTests: XCTestCase {
    /// Bounds for float32 of docs/method.md.
    private enum Bound {
        static let loss = 1e-5
        static let tensor = 1e-4
        static let trajectory = 2e-3
    }

    func testParityOfThePlainGraph() throws { try runAll(plain: true) }

    func testParityOfTheCheaperEvaluation() throws { try runAll(plain: false) }

    private func runAll(plain: Bool) throws {
        var paths = ["hssl-global", "hssl-multicrop"].compactMap {
            Bundle.module.path(forResource: $0, ofType: "safetensors", inDirectory: "Fixtures")
        }
        XCTAssertEqual(paths.count, 2, "both fixtures ship with the tests")
        if let folder = ProcessInfo.processInfo.environment["HSSL_FIXTURES"] {
            let more = try FileManager.default.contentsOfDirectory(atPath: folder).filter { $0.hasSuffix(".safetensors") }.sorted()
            XCTAssertFalse(more.isEmpty, "HSSL_FIXTURES=\(folder) holds no .safetensors file")
            paths += more.map { folder + "/" + $0 }
        }
        for path in paths {
            let worst = try ReferenceTrajectory(path: path).replay(plain: plain)
            print("Parity \(plain ? "plain" : "cheap") \((path as NSString).lastPathComponent): \(worst)")
            XCTAssertLessThanOrEqual(worst.loss.value, Bound.loss, "loss of \(path)")
            if plain { XCTAssertLessThanOrEqual(worst.logits.value, Bound.tensor, "logits \(worst.logits.name) of \(path)") }
            XCTAssertLessThanOrEqual(worst.gradients.value, Bound.tensor, "gradient \(worst.gradients.name) of \(path)")
            XCTAssertLessThanOrEqual(worst.final.value, Bound.trajectory, "final \(worst.final.name) of \(path)")
            XCTAssertLessThanOrEqual(worst.keyBias.value, 1, "key bias \(worst.keyBias.name) of \(path)")
        }
    }
}
