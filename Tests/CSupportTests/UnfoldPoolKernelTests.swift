import CSupport
import TestSupport
import XCTest

/// Windows of a grid: unfold and the pools, against formulas that name every position.
final class UnfoldPoolKernelTests: KernelRowTestCase {
    private struct Shape: CustomStringConvertible {
        var batch: Int, h: Int, w: Int, C: Int, k: Int, stride: Int, padding: Int
        var outH: Int { (h + 2 * padding - k) / stride + 1 }
        var outW: Int { (w + 2 * padding - k) / stride + 1 }
        var inputs: Int { batch * h * w * C }
        var outputs: Int { batch * outH * outW * C }
        var unfolded: Int { outputs * k * k }
        var description: String { "[\(batch), \(h), \(w), \(C)] k \(k), stride \(stride), padding \(padding)" }

        /// Calls body(output position, input position or nil in the padding, place in the window) for every window,
        /// positions counted through the batch.
        func forEachPair(_ body: (_ output: Int, _ input: Int?, _ place: Int) -> Void) {
            for b in 0..<batch {
                for i in 0..<outH {
                    for j in 0..<outW {
                        for u in 0..<k {
                            for v in 0..<k {
                                let row = i * stride - padding + u, column = j * stride - padding + v
                                let inside = row >= 0 && row < h && column >= 0 && column < w
                                body((b * outH + i) * outW + j, inside ? (b * h + row) * w + column : nil, u * k + v)
                            }
                        }
                    }
                }
            }
        }

        /// Positions inside the grid, of every window.
        var counts: [Double] {
            var counts = [Double](repeating: 0, count: batch * outH * outW)
            forEachPair { output, input, _ in if input != nil { counts[output] += 1 } }
            return counts
        }
    }

    private let shapes = [
        Shape(batch: 2, h: 5, w: 4, C: 3, k: 3, stride: 1, padding: 1),
        Shape(batch: 1, h: 7, w: 7, C: 17, k: 3, stride: 2, padding: 1),
        Shape(batch: 2, h: 9, w: 8, C: 64, k: 2, stride: 2, padding: 0),
        Shape(batch: 1, h: 3, w: 2, C: 1, k: 7, stride: 2, padding: 3),
        Shape(batch: 3, h: 6, w: 5, C: 35, k: 4, stride: 3, padding: 2),
        Shape(batch: 1, h: 1, w: 1, C: 16, k: 3, stride: 1, padding: 1),
        Shape(batch: 2, h: 10, w: 12, C: 3, k: 7, stride: 2, padding: 3),
        Shape(batch: 1, h: 11, w: 5, C: 8, k: 4, stride: 4, padding: 0),
        Shape(batch: 1, h: 4, w: 9, C: 3, k: 4, stride: 2, padding: 0),
        Shape(batch: 1, h: 6, w: 6, C: 2, k: 1, stride: 2, padding: 0),
    ]

    private func run(
        _ input: [Float], count: Int, edge: GuardedFloats.Edge,
        _ body: (UnsafePointer<Float>, UnsafeMutablePointer<Float>) -> Void
    ) -> [Float] {
        let x = GuardedFloats(input, edge: edge), y = GuardedFloats([Float](repeating: .nan, count: count), edge: edge)
        body(x.pointer, y.pointer)
        return y.values
    }

    private func unfold(_ s: Shape, _ x: [Float], edge: GuardedFloats.Edge = .end) -> [Float] {
        run(x, count: s.unfolded, edge: edge) { hssl_unfold(s.batch, s.h, s.w, s.C, s.k, s.stride, s.padding, $0, $1) }
    }
    private func unfoldBackward(_ s: Shape, _ dy: [Float], edge: GuardedFloats.Edge = .end) -> [Float] {
        run(dy, count: s.inputs, edge: edge) {
            hssl_unfold_backward(s.batch, s.h, s.w, s.C, s.k, s.stride, s.padding, $0, $1)
        }
    }
    private func averagePool(_ s: Shape, _ x: [Float], edge: GuardedFloats.Edge = .end) -> [Float] {
        run(x, count: s.outputs, edge: edge) {
            hssl_average_pool(s.batch, s.h, s.w, s.C, s.k, s.stride, s.padding, $0, $1)
        }
    }
    private func averagePoolBackward(_ s: Shape, _ dy: [Float], edge: GuardedFloats.Edge = .end) -> [Float] {
        run(dy, count: s.inputs, edge: edge) {
            hssl_average_pool_backward(s.batch, s.h, s.w, s.C, s.k, s.stride, s.padding, $0, $1)
        }
    }

    private func maxPool(_ s: Shape, _ x: [Float], edge: GuardedFloats.Edge = .end) -> (y: [Float], argmax: [Int32]) {
        let argmax = GuardedBuffer<Int32>(capacity: s.outputs)
        let y = run(x, count: s.outputs, edge: edge) {
            hssl_max_pool(s.batch, s.h, s.w, s.C, s.k, s.stride, s.padding, $0, $1, argmax.tail(s.outputs))
        }
        let plain = run(x, count: s.outputs, edge: edge) {
            hssl_max_pool(s.batch, s.h, s.w, s.C, s.k, s.stride, s.padding, $0, $1, nil)
        }
        assertSameBits(plain, y, "without argmax, \(s)")
        return (y, Array(UnsafeBufferPointer(start: argmax.tail(s.outputs), count: s.outputs)))
    }
    private func maxPoolBackward(
        _ s: Shape, _ argmax: [Int32], _ dy: [Float], edge: GuardedFloats.Edge = .end
    ) -> [Float] {
        let index = GuardedBuffer<Int32>(capacity: argmax.count)
        index.tail(argmax.count).update(from: argmax, count: argmax.count)
        return run(dy, count: s.inputs, edge: edge) {
            hssl_max_pool_backward(s.batch, s.h, s.w, s.C, s.k, s.stride, s.padding, index.tail(argmax.count), $0, $1)
        }
    }

    func testUnfoldOfAGrid() {
        for s in shapes {
            let x = uniform(s.inputs, seed: s.k)
            var expected = [Float](repeating: 0, count: s.unfolded)
            s.forEachPair { output, input, place in
                guard let input else { return }
                for c in 0..<s.C { expected[(output * s.k * s.k + place) * s.C + c] = x[input * s.C + c] }
            }
            for edge in GuardedFloats.Edge.allCases { XCTAssertEqual(unfold(s, x, edge: edge), expected, "\(s)") }
        }
    }

    func testUnfoldOfImages() {
        for s in shapes {
            let x = uniform(s.inputs, seed: s.k)  // [batch, C, h, w]
            var expected = [Float](repeating: 0, count: s.unfolded)
            s.forEachPair { output, input, place in
                guard let input else { return }
                let sample = input / (s.h * s.w), position = input % (s.h * s.w)
                for c in 0..<s.C {
                    expected[(output * s.C + c) * s.k * s.k + place] = x[(sample * s.C + c) * s.h * s.w + position]
                }
            }
            for edge in GuardedFloats.Edge.allCases {
                let actual = run(x, count: s.unfolded, edge: edge) {
                    hssl_unfold_image(s.batch, s.C, s.h, s.w, s.k, s.stride, s.padding, $0, $1)
                }
                XCTAssertEqual(actual, expected, "\(s)")
            }
        }
    }

    func testUnfoldBackward() {
        forEveryRow(of: "conv") { isa in
            for s in shapes {
                let dy = uniform(s.unfolded, seed: s.C)
                var dx = [Double](repeating: 0, count: s.inputs)
                s.forEachPair { output, input, place in
                    guard let input else { return }
                    for c in 0..<s.C { dx[input * s.C + c] += Double(dy[(output * s.k * s.k + place) * s.C + c]) }
                }
                for edge in GuardedFloats.Edge.allCases {
                    assertClose(
                        unfoldBackward(s, dy, edge: edge), dx.map(Float.init), 1e-6, "\(s), row \(isa.rawValue)")
                }
            }
        }
    }

    func testMaxPool() {
        forEveryRow(of: "conv") { isa in
            for s in shapes {
                // Few values, so that many windows have several largest elements: the first wins.
                let x = uniform(s.inputs, seed: s.k).map { ($0 * 3).rounded() }, dy = uniform(s.outputs, seed: 5)
                var y = [Float](repeating: -.infinity, count: s.outputs), argmax = [Int32](
                    repeating: -1, count: s.outputs)
                s.forEachPair { output, input, _ in
                    guard let input else { return }
                    for c in 0..<s.C where x[input * s.C + c] > y[output * s.C + c] {
                        y[output * s.C + c] = x[input * s.C + c]
                        argmax[output * s.C + c] = Int32(input % (s.h * s.w))
                    }
                }
                var dx = [Double](repeating: 0, count: s.inputs)
                for (at, position) in argmax.enumerated() {
                    let sample = at / (s.outH * s.outW * s.C)
                    dx[(sample * s.h * s.w + Int(position)) * s.C + at % s.C] += Double(dy[at])
                }
                for edge in GuardedFloats.Edge.allCases {
                    let actual = maxPool(s, x, edge: edge)
                    XCTAssertEqual(actual.y, y, "\(s), row \(isa.rawValue)")
                    XCTAssertEqual(actual.argmax, argmax, "\(s), row \(isa.rawValue)")
                    assertClose(
                        maxPoolBackward(s, argmax, dy, edge: edge), dx.map(Float.init), 1e-6,
                        "dx \(s), row \(isa.rawValue)")
                }
            }
        }
    }

    func testNaNWinsAndInfinitiesAreNumbers() {
        let s = Shape(batch: 1, h: 5, w: 5, C: 17, k: 3, stride: 1, padding: 1)
        forEveryRow(of: "conv") { isa in
            for c in [0, 16] {
                var x = [Float](repeating: -.infinity, count: s.inputs)
                let bad = [7, 12]  // (1, 2) and (2, 2)
                for position in bad { x[position * s.C + c] = .nan }
                let result = maxPool(s, x)
                for i in 0..<5 {
                    for j in 0..<5 {
                        let first = bad.first { abs($0 / 5 - i) <= 1 && abs($0 % 5 - j) <= 1 }
                        let at = (i * 5 + j) * s.C + c
                        XCTAssertEqual(result.y[at].isNaN, first != nil, "(\(i), \(j)), row \(isa.rawValue)")
                        if let first {
                            XCTAssertEqual(result.argmax[at], Int32(first), "(\(i), \(j)), row \(isa.rawValue)")
                        }
                        XCTAssertEqual(result.y[(i * 5 + j) * s.C + 8], -.infinity)
                    }
                }
            }
        }
    }

    func testAveragePool() {
        forEveryRow(of: "conv") { isa in
            for s in shapes {
                let x = uniform(s.inputs, seed: s.k), dy = uniform(s.outputs, seed: 6), counts = s.counts
                var y = [Double](repeating: 0, count: s.outputs), dx = [Double](repeating: 0, count: s.inputs)
                s.forEachPair { output, input, _ in
                    guard let input else { return }
                    for c in 0..<s.C {
                        y[output * s.C + c] += Double(x[input * s.C + c]) / counts[output]
                        dx[input * s.C + c] += Double(dy[output * s.C + c]) / counts[output]
                    }
                }
                for edge in GuardedFloats.Edge.allCases {
                    assertClose(averagePool(s, x, edge: edge), y.map(Float.init), 1e-6, "y \(s), row \(isa.rawValue)")
                    assertClose(
                        averagePoolBackward(s, dy, edge: edge), dx.map(Float.init), 1e-6,
                        "dx \(s), row \(isa.rawValue)")
                }
            }
        }
    }

    func testRowsOfKernelsHaveTheSameBits() {
        let s = Shape(batch: 2, h: 9, w: 7, C: 37, k: 3, stride: 2, padding: 1)
        let x = uniform(s.inputs, seed: 1), dy = uniform(s.outputs, seed: 2), g = uniform(s.unfolded, seed: 3)
        func all() -> [[Float]] {
            let largest = maxPool(s, x)
            return [
                largest.y, maxPoolBackward(s, largest.argmax, dy), averagePool(s, x), averagePoolBackward(s, dy),
                unfoldBackward(s, g)]
        }
        let expected = withScalarRow(all)
        forEachRow(of: "conv") { isa in
            for (index, pair) in zip(all(), expected).enumerated() {
                assertSameBits(pair.0, pair.1, "output \(index), row \(isa.rawValue)")
            }
        }
    }

    func testThreadsDoNotMatter() {
        let s = Shape(batch: 3, h: 27, w: 25, C: 50, k: 3, stride: 2, padding: 1)
        let x = uniform(s.inputs, seed: 1), dy = uniform(s.outputs, seed: 2), g = uniform(s.unfolded, seed: 3)
        assertThreadsDoNotMatter("conv", counts: [2, 4]) {
            let largest = maxPool(s, x)
            let image = run(x, count: s.unfolded, edge: .end) {
                hssl_unfold_image(s.batch, s.C, s.h, s.w, s.k, s.stride, s.padding, $0, $1)
            }
            return [
                largest.y, largest.argmax.map(Float.init), maxPoolBackward(s, largest.argmax, dy), averagePool(s, x),
                averagePoolBackward(s, dy), unfold(s, x), unfoldBackward(s, g), image]
        }
    }
}
