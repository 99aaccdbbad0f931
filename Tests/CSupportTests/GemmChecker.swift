import CSupport
import KernelOracle
import TestSupport

typealias GemmFloat = (
    Int, Int, Int, UnsafePointer<Float>?, Int, Int, UnsafeRawPointer?, UnsafeMutablePointer<Float>?, Int, Bool,
    UnsafePointer<hssl_gemm_output>?) -> Void
typealias GemmInteger = (
    Int, Int, Int, UnsafePointer<UInt8>?, Int, UnsafeRawPointer?, UnsafeMutablePointer<Int32>?, Int) -> Void

/// One product: its sizes, its strides and its output stage.
struct GemmCase {
    var M, N, K: Int
    var transposedA = false, transposedB = false, accumulate = false, bias = false, gelu = false, preactivation = false
    /// Of GELU.
    var coarse = false
    var residual = false, residualIsC = false
    /// Elements between the end of one row and the next, of A, C and the residual.
    var gap = 0
    /// The code of 0 in A.
    var zero: UInt8 = 128

    /// The same sizes with options drawn from `seed`, so that a sweep over sizes also sweeps over stages and strides.
    static func mixed(_ M: Int, _ N: Int, _ K: Int, seed: Int) -> GemmCase {
        let bits = UInt64(truncatingIfNeeded: seed) &* 0x9E37_79B9_7F4A_7C15 >> 40
        func option(_ bit: UInt64) -> Bool { bits >> bit & 1 == 1 }
        return GemmCase(
            M: M, N: N, K: K, transposedA: option(0), transposedB: option(1), accumulate: option(2), bias: option(3),
            gelu: option(4), preactivation: option(5), coarse: option(9), residual: option(6), residualIsC: option(7),
            gap: option(8) ? 3 : 0, zero: [128, 2, 20, 254][Int(bits >> 10 & 3)])
    }
}

/// Runs a product in buffers that end at guard pages and compares it with the double-precision oracle. Nil: correct.
/// The same checker judges the real rows and the planted faults.
final class GemmChecker {
    private let a: GuardedBuffer<Float>, b: GuardedBuffer<Float>, c: GuardedBuffer<Float>, before: GuardedBuffer<Float>
    private let preactivation: GuardedBuffer<Float>, residual: GuardedBuffer<Float>, bias: GuardedBuffer<Float>
    private let rowScale: GuardedBuffer<Float>, columnScale: GuardedBuffer<Float>
    private let packed: GuardedBuffer<UInt8>, workspace: GuardedBuffer<Float>
    private let half: GuardedBuffer<UInt16>, codesA: GuardedBuffer<UInt8>, codesB: GuardedBuffer<Int8>

    /// Buffers for products up to `limit` in every size.
    init(M: Int, N: Int, K: Int) {
        let gap = 3
        func random(_ count: Int, _ key: UInt64) -> GuardedBuffer<Float> {
            let buffer = GuardedBuffer<Float>(capacity: count)
            oracle_fill_f32(count, key, buffer.tail(count))
            return buffer
        }
        a = random((M + gap) * (K + gap), 1)
        b = random(N * K, 2)
        c = random(M * (N + gap), 3)
        before = random(M * (N + gap), 4)
        preactivation = random(M * (N + gap), 5)
        residual = random(M * (N + gap), 6)
        bias = random(N, 7)
        rowScale = random(M, 8)
        columnScale = random(N, 9)
        let panels = (N + 63) / 64 * 64
        packed = GuardedBuffer(capacity: panels * (K + 8) * 4)
        workspace = GuardedBuffer(capacity: panels * M)
        half = GuardedBuffer(capacity: N * K)
        codesA = GuardedBuffer(capacity: M * (K + 4 + gap))
        oracle_fill_bytes(codesA.capacity, 10, 1, 255, codesA.tail(codesA.capacity))
        codesB = GuardedBuffer(capacity: N * K)
        codesB.tail(N * K).withMemoryRebound(to: UInt8.self, capacity: N * K) {
            oracle_fill_bytes(N * K, 11, -127, 127, $0)
        }
    }

    private func report(_ ratio: Double, _ kind: String, _ g: GemmCase) -> String? {
        ratio <= 1 ? nil : "\(kind): error is \(ratio) of its bound in \(g)"
    }

    /// C and its output stage; `body` gets C, ldc and the stage and returns the error ratio.
    private func withTarget(
        _ g: GemmCase,
        _ body: (UnsafeMutablePointer<Float>, UnsafePointer<Float>, Int, UnsafePointer<hssl_gemm_output>?) -> Double
    ) -> Double {
        let ldc = g.N + g.gap, count = (g.M - 1) * ldc + g.N
        let target = c.tail(count), old = before.tail(count)
        target.update(from: old, count: count)
        var output = hssl_gemm_output()
        if g.bias { output.bias = UnsafePointer(bias.tail(g.N)) }
        if g.preactivation { output.preactivation = preactivation.tail(count) }
        output.activation = !g.gelu ? HSSL_ACTIVATION_NONE : g.coarse
            ? HSSL_ACTIVATION_GELU_COARSE : HSSL_ACTIVATION_GELU
        if g.residual {
            output.residual = UnsafePointer(g.residualIsC ? target : residual.tail(count))
            output.ld_residual = ldc
        }
        guard g.bias || g.preactivation || g.gelu || g.residual else { return body(target, old, ldc, nil) }
        return withUnsafePointer(to: output) { body(target, old, ldc, $0) }
    }

    private func strides(_ g: GemmCase) -> (aM: Int, aK: Int, bK: Int, bN: Int) {
        (
            g.transposedA ? 1 : g.K + g.gap, g.transposedA ? g.M + g.gap : 1, g.transposedB ? g.N : 1,
            g.transposedB ? 1 : g.K)
    }

    private func aBuffer(_ g: GemmCase) -> UnsafeMutablePointer<Float> {
        let s = strides(g)
        return a.tail((g.M - 1) * s.aM + (g.K - 1) * s.aK + 1)
    }

    func float32(_ g: GemmCase, _ product: GemmFloat = hssl_gemm_f32) -> String? {
        let s = strides(g), x = aBuffer(g), y = b.tail(g.N * g.K), size = hssl_gemm_f32_packed_size(g.N, g.K)
        let panels = packed.tail(size)
        hssl_gemm_f32_pack(g.N, g.K, y, s.bK, s.bN, panels)
        return report(withTarget(g) { c, before, ldc, output in
            product(g.M, g.N, g.K, x, s.aM, s.aK, panels, c, ldc, g.accumulate, output)
            return oracle_gemm_f32(g.M, g.N, g.K, x, s.aM, s.aK, y, s.bK, s.bN, before, c, ldc, g.accumulate, output)
        }, "gemm_f32", g)
    }

    func unpacked(_ g: GemmCase) -> String? {
        let s = strides(g), x = aBuffer(g), y = b.tail(g.N * g.K)
        let scratch = workspace.tail(hssl_gemm_f32_unpacked_workspace_size(g.M, g.N, g.K) / 4)
        return report(withTarget(g) { c, before, ldc, output in
            hssl_gemm_f32_unpacked(g.M, g.N, g.K, x, s.aM, s.aK, y, s.bK, s.bN, c, ldc, g.accumulate, output, scratch)
            return oracle_gemm_f32(g.M, g.N, g.K, x, s.aM, s.aK, y, s.bK, s.bN, before, c, ldc, g.accumulate, output)
        }, "gemm_f32_unpacked", g)
    }

    func float16(_ g: GemmCase) -> String? {
        let s = strides(g), x = aBuffer(g), y = b.tail(g.N * g.K), z = half.tail(g.N * g.K)
        hssl_convert_f32_f16(g.N * g.K, y, z)
        hssl_convert_f16_f32(g.N * g.K, z, y)
        let panels = packed.tail(hssl_gemm_f16_packed_size(g.N, g.K))
        hssl_gemm_f16_pack(g.N, g.K, z, s.bK, s.bN, panels)
        return report(withTarget(g) { c, before, ldc, output in
            hssl_gemm_f16(g.M, g.N, g.K, x, s.aM, s.aK, panels, c, ldc, g.accumulate, output)
            return oracle_gemm_f32(g.M, g.N, g.K, x, s.aM, s.aK, y, s.bK, s.bN, before, c, ldc, g.accumulate, output)
        }, "gemm_f16", g)
    }

    /// Products of inference, with a workspace, the rows in as many pieces as `parts`. For contiguous A, without
    /// preactivation and accumulation.
    func rows(_ g: GemmCase, float16: Bool, parts: Int) -> String? {
        let s = strides(g), x = aBuffer(g), y = b.tail(g.N * g.K), z = half.tail(g.N * g.K)
        let panels = packed.tail(float16 ? hssl_gemm_f16_packed_size(g.N, g.K) : hssl_gemm_f32_packed_size(g.N, g.K))
        if float16 {
            hssl_convert_f32_f16(g.N * g.K, y, z)
            hssl_convert_f16_f32(g.N * g.K, z, y)
            hssl_gemm_f16_pack(g.N, g.K, z, s.bK, s.bN, panels)
        } else {
            hssl_gemm_f32_pack(g.N, g.K, y, s.bK, s.bN, panels)
        }
        let scratch = GuardedBuffer<Float>(capacity: max(16, hssl_gemm_workspace_size(g.M, g.N, g.K) / 4))
        return report(withTarget(g) { c, before, ldc, output in
            for part in 0..<parts {
                let first = hssl_gemm_cut(g.M, g.M * part / parts), end = hssl_gemm_cut(g.M, g.M * (part + 1) / parts)
                (float16 ? hssl_gemm_f16_rows : hssl_gemm_f32_rows)(
                    g.M, first, end, g.N, g.K, x, panels, c, ldc, output, scratch.tail(scratch.capacity))
            }
            return oracle_gemm_f32(g.M, g.N, g.K, x, s.aM, s.aK, y, s.bK, s.bN, before, c, ldc, g.accumulate, output)
        }, float16 ? "gemm_f16_rows" : "gemm_f32_rows", g)
    }

    private func packCodes(
        _ g: GemmCase
    ) -> (
        a: UnsafeMutablePointer<UInt8>, lda: Int, b: UnsafeMutablePointer<Int8>, panels: UnsafeMutablePointer<UInt8>
    ) {
        let s = strides(g), rounded = (g.K + 3) / 4 * 4, lda = rounded + g.gap
        let y = codesB.tail(g.N * g.K), panels = packed.tail(hssl_gemm_u8s8_packed_size(g.N, g.K))
        hssl_gemm_u8s8_pack(g.N, g.K, y, s.bK, s.bN, g.zero, panels)
        return (codesA.tail((g.M - 1) * lda + rounded), lda, y, panels)
    }

    func int8(_ g: GemmCase) -> String? {
        let s = strides(g), codes = packCodes(g), scaleA = rowScale.tail(g.M), scaleB = g.gelu
            ? nil : columnScale.tail(g.N)
        return report(withTarget(g) { c, before, ldc, output in
            hssl_gemm_u8s8_f32(
                g.M, g.N, g.K, codes.a, codes.lda, scaleA, codes.panels, scaleB, c, ldc, g.accumulate, output)
            return oracle_gemm_u8s8_f32(
                g.M, g.N, g.K, codes.a, codes.lda, g.zero, scaleA, codes.b, s.bK, s.bN, scaleB, before, c, ldc,
                g.accumulate, output)
        }, "gemm_u8s8_f32", g)
    }

    /// Exact: every int32 equal.
    func accumulators(_ g: GemmCase, _ product: GemmInteger = hssl_gemm_u8s8_s32) -> String? {
        let s = strides(g), codes = packCodes(g), ldc = g.N + g.gap, count = (g.M - 1) * ldc + g.N
        let wrong = c.tail(count).withMemoryRebound(to: Int32.self, capacity: count) { c in
            before.tail(count).withMemoryRebound(to: Int32.self, capacity: count) { before in
                c.update(from: before, count: count)
                product(g.M, g.N, g.K, codes.a, codes.lda, codes.panels, c, ldc)
                return oracle_gemm_u8s8_s32(
                    g.M, g.N, g.K, codes.a, codes.lda, g.zero, codes.b, s.bK, s.bN, before, c, ldc)
            }
        }
        return wrong == 0 ? nil : "gemm_u8s8_s32: \(wrong) wrong elements in \(g)"
    }

    func all(_ g: GemmCase) -> [String] {
        [float32(g), unpacked(g), float16(g), int8(g), accumulators(g)].compactMap { $0 }
    }
}
