import Foundation
import HSSLFormats
import HSSLGraph
import HSSLModels
import XCTest

@testable import HSSLPretraining

/// Whole training steps against float64 trajectories of the reference in tools/reference: losses, logits, every
/// gradient, and where student, teacher and centres end. The files say which base, head and objective they are of.
///
/// Also runs every `*.safetensors` in the folder named by `HSSL_FIXTURES`.
final class ParityTests: XCTestCase {
    /// Bounds for float32 (docs/method.md).
    private enum Bound {
        static let loss = 1e-5
        static let tensor = 1e-4
        /// Batch norm over 5 or 6 rows divides by small deviations.
        static let coupledTensor = 5e-4
        static let trajectory = 2e-3
    }

    func testParityOfThePlainGraph() throws { try runAll(plain: true) }

    func testParityOfTheCheaperEvaluation() throws { try runAll(plain: false) }

    func testParityOfMicroBatchesOfOneImage() throws { try runAll(plain: false) { [Int](repeating: 1, count: $0) } }

    /// Uneven ones, in another order every step, their tapes not kept.
    func testParityOfUnevenMicroBatches() throws {
        try runAll(plain: false, keptBytes: 0) { count in [2] + [Int](repeating: 1, count: count - 2) }
    }

    private func runAll(plain: Bool, keptBytes: Int? = nil, microBatches: (Int) -> [Int]? = { _ in nil }) throws {
        let fixtures = try XCTUnwrap(Bundle.module.resourcePath) + "/Fixtures"
        var folders = [fixtures]
        if let folder = ProcessInfo.processInfo.environment["HSSL_FIXTURES"] { folders.append(folder) }
        for folder in folders {
            let names = try FileManager.default.contentsOfDirectory(atPath: folder)
            let paths = names.filter { $0.hasSuffix(".safetensors") }.sorted().map { folder + "/" + $0 }
            XCTAssertGreaterThanOrEqual(
                paths.count, folder == fixtures ? 15 : 1, "\(folder) holds too few .safetensors files")
            for path in paths {
                let trajectory = try ReferenceTrajectory(path: path)
                let worst = try trajectory.replay(
                    plain: plain, keptBytes: keptBytes, microBatches: microBatches(trajectory.configuration.images))
                print("Parity \(plain ? "plain" : "cheap") \((path as NSString).lastPathComponent): \(worst)")
                XCTAssertLessThanOrEqual(worst.loss.value, Bound.loss, "loss of \(path)")
                let coupled = trajectory.configuration.objective is any AgreementSettings
                let bound = coupled ? Bound.coupledTensor : Bound.tensor
                if plain {
                    XCTAssertLessThanOrEqual(worst.logits.value, bound, "logits \(worst.logits.name) of \(path)")
                }
                XCTAssertLessThanOrEqual(worst.gradients.value, bound, "gradient \(worst.gradients.name) of \(path)")
                XCTAssertLessThanOrEqual(worst.final.value, Bound.trajectory, "final \(worst.final.name) of \(path)")
                XCTAssertLessThanOrEqual(
                    worst.zeroGradient.value, 1, "zero gradient \(worst.zeroGradient.name) of \(path)")
            }
        }
    }
}
