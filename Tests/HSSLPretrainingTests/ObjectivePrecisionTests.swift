import CSupport
import Foundation
import HSSLGraph
import XCTest

@testable import HSSLPretraining

/// The precision policies against the float32 step, and threads against one thread.
final class ObjectivePrecisionTests: XCTestCase {
    /// Loss and gradients of the fixtures' first step under each policy. Every tensor is held to the bound; only the
    /// key third of `qkv.bias` is left out: its exact gradient is zero, and what is computed is rounding.
    func testParityOfTheReducedPrecisions() throws {
        for name in ["hssl-global", "hssl-multicrop"] {
            let path = try XCTUnwrap(Bundle.module.path(
                forResource: name, ofType: "safetensors", inDirectory: "Fixtures"))
            let reference = try ReferenceTrajectory(path: path)
            let expected = Double(try reference.file.floats("losses")[0])
            for precision in [Precision.float16, .int8] {
                let learner = try reference.makeLearner(precision: precision)
                let result = learner.evaluate([try reference.batch(step: 0)], context: reference.context(step: 0))
                let loss = abs(result.losses.total(hasAuxiliary: true) - expected) / expected
                XCTAssertLessThanOrEqual(loss, precision == .float16 ? 5e-4 : 5e-3, "\(precision) \(name)")
                var worst: (cosine: Double, name: String) = (1, "-")
                var ours: [Float] = [], theirs: [Float] = []
                for (parameter, gradient) in result.gradients {
                    let (a, b) = (
                        withoutKeys(parameter, gradient),
                        withoutKeys(parameter, try reference.file.floats("step0.gradient." + parameter)))
                    let similarity = cosine(a, b)
                    if similarity < worst.cosine { worst = (similarity, parameter) }
                    XCTAssertGreaterThanOrEqual(
                        similarity, precision == .float16 ? 0.9999 : 0.999, "\(precision) \(name): \(parameter)")
                    ours += a
                    theirs += b
                }
                let whole = cosine(ours, theirs)
                XCTAssertGreaterThanOrEqual(
                    whole, precision == .float16 ? 0.9999 : 0.999, "\(precision) \(name): all gradients")
                print("Precision \(precision) \(name): loss off by \(loss), least cosine \(worst), of the whole model \(whole)")
            }
        }
    }

    /// Work is split by output elements: the number of threads changes no bit. Sizes above the serial threshold of the
    /// kernels.
    func testThreadsDoNotChangeAnyBit() throws {
        let threads = hssl_get_threads()
        defer { hssl_set_threads(threads) }
        for precision in Precision.allCases {
            var reference: [String: [Float]]?
            for count in [Int32(1), 2, 4] {
                hssl_set_threads(count)
                let learner = try SmallLearner.make(
                    settings: .init(studentTemperature: 0.1, precision: precision, dropPath: 0.2, seed: 3), width: 96)
                for step in 0..<2 {
                    var sums = learner.newSums()
                    learner.objective.accumulate(
                        SmallLearner.batch(images: 0..<6, localViews: 1),
                        context: SmallLearner.context(images: 6, step: step), centers: learner.centers,
                        pool: learner.pool, into: &sums)
                    XCTAssertFalse(learner.update(sums, schedule: SmallLearner.schedule()).skipped)
                }
                let state = learner.state
                if let reference {
                    for (name, values) in state {
                        XCTAssertEqual(values, reference[name], "\(precision), \(count) threads: \(name)")
                    }
                } else {
                    reference = state
                }
            }
        }
    }
}
