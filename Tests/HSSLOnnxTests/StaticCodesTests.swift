import HSSLGraph
import HSSLModels
import XCTest

@testable import HSSLOnnx

final class StaticCodesTests: XCTestCase {
    func testCodesHoldZeroAndTheEnds() {
        for (least, most) in [(-1, 3), (0.5, 2), (-2, -1), (0, 6), (-0.17, 9)] as [(Float, Float)] {
            let codes = CodeRange(least: least, most: most)
            XCTAssertEqual(codes.rounded(0), 0)
            let (bottom, top) = (min(least, 0), max(most, 0))
            XCTAssertEqual(codes.scale, (top - bottom) / 255, accuracy: 1e-7)
            for value in [least, most, (least + most) / 2] {
                XCTAssertEqual(codes.rounded(value), value, accuracy: 0.51 * codes.scale)
            }
            XCTAssertEqual(codes.rounded(100 * top), top, accuracy: codes.scale)
            XCTAssertEqual(codes.rounded(100 * bottom), bottom, accuracy: codes.scale)
        }
        XCTAssertEqual(CodeRange(least: 0, most: 0).rounded(0), 0)
    }

    func testWeightCodes() {
        let codes = WeightCodes([0.5, -1, 0.25, 0, 0, 0], outputs: 2)
        XCTAssertEqual(codes.codes, [64, -127, 32, 0, 0, 0])
        XCTAssertEqual(codes.scales[0], 1 / 127, accuracy: 1e-9)
        XCTAssertEqual(codes.scales[1], 1, "readers may divide by it")
    }

    /// A cut range errs less where one value of many is far out.
    func testRangeIsCutWhereThatHelps() {
        let tape = Tape(mode: .inference, pool: BufferPool())
        var random = CounterRandom(seed: 1, stream: 2, 3)
        let width = 2048
        var values = (0..<64 * width).map { _ in random.normal() }
        values[20 * width] = 20
        let whole = (20 - (values.min() ?? 0)) / 255
        var observation = Observation(width: width, images: 1)
        observation.add(tape.constant(values, shape: [64, width]))
        XCTAssertLessThan(observation.range(nil).scale, 0.9 * whole)
        // Not where it is what the product reads.
        var energies = [Float](repeating: 1e-4, count: width)
        energies[0] = 1
        XCTAssertGreaterThan(observation.range(energies).scale, 0.98 * whole)
    }

    func testReplayIsTheModel() throws {
        for sample in try SampleModel.all() {
            let replay = Replay(sample.live)
            for image in sample.images(2) {
                let tape = Tape(mode: .inference, pool: BufferPool())
                let side = sample.architecture.imageSize
                let input = tape.constant(image, shape: [1, 3, side, side])
                let parameters = ParameterSet()
                let base = sample.architecture.makeBase(ParameterScope(parameters), .deployment)
                parameters.allocate(from: BufferPool())
                for parameter in parameters.all {
                    parameter.values.update(from: try sample.values(parameter.name), count: parameter.count)
                    parameter.valuesDidChange()
                }
                let wanted = base.global(base(input, mask: nil, Pass())).array()
                XCTAssertEqual(try replay.global(image), wanted, sample.name)
            }
        }
    }

    func testCodesKeepTheFeatures() throws {
        for sample in try SampleModel.all() {
            let codes = try sample.model.codes(over: sample.images(4))
            XCTAssertGreaterThan(codes.meanCosine, 0.999, sample.name)
            XCTAssertEqual(codes.products.quantized, codes.products.all, sample.name)
        }
    }

    /// A channel a hundred times as large as the others takes their codes: its product stays in float32.
    func testWhatCostsTooMuchStays() throws {
        let sample = try XCTUnwrap(try SampleModel.all().first)
        let hostile = OnnxModel(sample.architecture, sample.preprocessing) { name in
            var values = try sample.values(name)
            if name == "blocks.1.norm1.bias" { values[3] = 300 }
            if name == "blocks.1.attn.qkv.weight" {
                for row in 0..<values.count / 24 { values[24 * row + 3] = 1e-3 * values[24 * row + 3] }
            }
            return values
        }
        let codes = try hostile.codes(over: sample.images(4))
        XCTAssertGreaterThan(codes.meanCosine, OnnxModel.goal)
        XCTAssertLessThan(codes.products.quantized, codes.products.all)
        let graph = try hostile.model(.int8(codes), SampleModel.provenance).graph
        let kept = graph.initializer.first { $0.name == "blocks.1.attn.qkv.weight" }
        XCTAssertEqual(kept?.dataType, .float)
    }
}

extension SampleModel {
    var live: LiveNodes {
        let trace = ModelTrace(architecture)
        return LiveNodes(trace, Constants(trace.tape, parameters: values))
    }
}
