import CSupport
import HSSLGraph
import XCTest

@testable import HSSLGradients
@testable import HSSLPretraining

/// What an int8 run says of its codes.
final class Int8StatisticsTests: TrainerTestCase {
    /// One product whose codes are known: activations ±127 and 0, a gradient row that is zero and one that is not.
    func testCountsOfOneProduct() {
        let pool = BufferPool()
        let weight = Parameter(name: "w", shape: [2, 2], initializer: .zeros), x = Parameter(
            name: "x", shape: [2, 4], initializer: .zeros)
        let mixing = Parameter(name: "m", shape: [2, 4], initializer: .zeros)
        for (parameter, values) in [
            (weight, [127, 0, 0, 127] as [Float]), (x, [1, 0, 0.5, -1, 3, 3, 3, -3]),
            (mixing, [127, 0, 0, 0, 0, 127, 0, 0])] {
            parameter.allocate(from: pool)
            parameter.values.update(from: values, count: values.count)
        }
        let tape = Tape(mode: .training, precision: .int8, pool: pool)
        let statistics = QuantizationStatistics()
        tape.statistics = statistics
        let y = tape.parameter(x).linear(weight: tape.parameter(mixing), bias: nil).linear(
            weight: tape.parameter(weight), bias: nil)
        XCTAssertEqual(statistics.activations.codes, 12)
        // Rows (1, 0, ½, −1) and (3, 3, 3, −3); then (1, 0) and (3, 3).
        XCTAssertEqual(statistics.activations.saturated, 2 + 4 + 1 + 2)
        XCTAssertEqual(statistics.activations.zeros, 1 + 1)
        XCTAssertEqual(statistics.gradients, CodeStatistics())
        XCTAssertNil(statistics.gradients.zeroShare)
        // dy = (0, 0), (2, 0): times the channel scale 1.
        let loss = y.reshaped([1, 4]).linear(weight: tape.constant([0, 0, 2, 0], shape: [1, 4]), bias: nil, role: .full)
        BackwardPass.run(from: [loss])
        XCTAssertEqual(statistics.gradients.codes, 8)
        XCTAssertEqual(statistics.gradients.zeros, 2 + 1 + 2 + 1)
        XCTAssertEqual(statistics.gradients.saturated, 2)
        XCTAssertEqual(statistics.gradients.scaledRows, 2, "rows of zeros have no scale")
        // Row maxima 2·1, then 2·127 (through W) times the channel scale 1.
        XCTAssertEqual(statistics.gradients.maximumScale ?? 0, 2, accuracy: 1e-5)
        XCTAssertEqual(statistics.gradients.meanScale ?? 0, (2 / 127.0 + 2) / 2, accuracy: 1e-5)
    }

    func testTheLastMicroBatchIsMeasuredAndNothingChanges() throws {
        let learner = try SmallLearner.make(settings: .init(precision: .int8, seed: 3))
        let batches = [
            SmallLearner.batch(images: 0..<3, localViews: 1), SmallLearner.batch(images: 3..<5, localViews: 1)]
        func codes(_ batches: [CropBatch], images: Int) -> QuantizationStatistics? {
            var sums = learner.newSums()
            for batch in batches {
                learner.accumulate(
                    batch, context: SmallLearner.context(images: images), into: &sums)
            }
            learner.student.parameters.clearGradients()
            return sums.quantization
        }
        XCTAssertNil(codes([batches[0]], images: 5), "more is to come")
        let last = try XCTUnwrap(codes(batches, images: 5))
        XCTAssertGreaterThan(last.activations.codes, 0)
        XCTAssertGreaterThan(last.gradients.codes, 0)
        let alone = try XCTUnwrap(codes([batches[1]], images: 5))
        XCTAssertEqual(last.activations, alone.activations)
        XCTAssertEqual(last.gradients, alone.gradients)
        for precision in [Precision.float32, .float16] {
            learner.objective.settings.precision = precision
            XCTAssertNil(codes([batches[1]], images: 5))
        }
    }

    func testMetricsOfAnInt8Run() throws {
        for precision in ["int8", "float32"] {
            try train(recipe("schedule.precision=\(precision)"), precision, maxSteps: 3)
            let lines = try String(contentsOfFile: "\(root)/\(precision)/metrics.jsonl", encoding: .utf8).split(
                separator: "\n")
            XCTAssertEqual(lines.count, 3)
            for line in lines {
                let metrics = try XCTUnwrap(Metrics(json: line))
                guard precision == "int8" else {
                    XCTAssertFalse(line.contains("int8"), "\(line)")
                    continue
                }
                // Widths of 16 to 256: at least one code a row is ±127.
                for share in [metrics.int8Saturation, metrics.int8GradientSaturation] {
                    XCTAssertGreaterThan(try XCTUnwrap(share), 1.0 / 400)
                    XCTAssertLessThan(try XCTUnwrap(share), 0.5)
                }
                XCTAssertGreaterThan(try XCTUnwrap(metrics.int8GradientZeros), 0)
                XCTAssertLessThan(try XCTUnwrap(metrics.int8GradientZeros), UnderflowWatch.share)
                XCTAssertGreaterThan(try XCTUnwrap(metrics.int8GradientScaleMean), 0)
                XCTAssertGreaterThanOrEqual(
                    try XCTUnwrap(metrics.int8GradientScaleMax), try XCTUnwrap(metrics.int8GradientScaleMean))
            }
            let report = try String(contentsOfFile: "\(root)/\(precision)/report.html", encoding: .utf8)
            XCTAssertEqual(report.contains("int8 codes of gradients"), precision == "int8")
            if let line = lines.last, precision == "int8" { print("int8 statistics: \(line)") }
        }
    }

    func testUnderflowIsSaidOnce() {
        var watch = UnderflowWatch()
        func after(_ zeros: Double?) -> String? {
            var metrics = Metrics(step: 1, epoch: 0)
            metrics.int8GradientZeros = zeros
            return watch.warning(metrics)
        }
        for _ in 0..<100 { XCTAssertNil(after(nil)) }
        for _ in 0..<UnderflowWatch.patience - 1 { XCTAssertNil(after(0.995)) }
        XCTAssertNil(after(0.5), "a good update starts the count anew")
        for _ in 0..<UnderflowWatch.patience - 1 { XCTAssertNil(after(0.995)) }
        XCTAssertEqual(
            after(0.9951),
            "gradients underflow: 99.5 % of their int8 codes are 0, for 20 updates; "
            + "schedule.precision float16 keeps them"
        )
        for _ in 0..<100 { XCTAssertNil(after(1)) }
    }
}
