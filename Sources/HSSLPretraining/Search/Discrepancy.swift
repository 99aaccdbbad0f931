import CSupport
import HSSLEvaluation
import HSSLGraph
#if canImport(Glibc)
import Glibc
#endif

/// How much two sets of features of the same images differ, and how many directions one of them has.
enum Discrepancy {
    /// 1 − unbiased linear CKA of X [M, D] and Y [M, E]: 0 for equal geometry, about 1 for independent features.
    ///
    /// NaN where one of them is constant. Source: Kornblith et al., "Similarity of neural network representations
    /// revisited", ICML 2019, with the unbiased HSIC of Song et al., JMLR 2012.
    static func cka(_ x: [Float], _ y: [Float], rows: Int) -> Double {
        let x = centered(x, rows: rows), y = centered(y, rows: rows)
        let product = hsic(x, x, rows: rows) * hsic(y, y, rows: rows)
        return product > 0 ? 1 - hsic(x, y, rows: rows) / product.squareRoot() : .nan
    }

    /// The unbiased estimate of HSIC with linear kernels, from sums over the rows: needs at least 4.
    ///
    /// With k_i = ‖x_i‖², l_i = ‖y_i‖² and column sums s: tr = ‖XᵀY‖² − Σ k_i·l_i; a = ‖s_x‖² − Σ k_i, b likewise;
    /// c = Σ (x_i·s_x − k_i)(y_i·s_y − l_i); HSIC = [tr + ab/((M−1)(M−2)) − 2c/(M−2)]/(M(M−3)).
    static func hsic(_ x: [Float], _ y: [Float], rows: Int) -> Double {
        guard rows > 3 else { return .nan }
        let (d, e) = (x.count / rows, y.count / rows)
        let (sx, sy) = (columnSums(x, rows: rows), columnSums(y, rows: rows))
        func terms(_ values: [Float], _ sums: [Double], _ width: Int, _ row: Int) -> (square: Double, along: Double) {
            var (square, along) = (0.0, 0.0)
            for i in 0..<width {
                let value = Double(values[row * width + i])
                square += value * value
                along += value * sums[i]
            }
            return (square, along)
        }
        var trace = product(x, y, rows: rows).reduce(0.0) { $0 + Double($1) * Double($1) }
        var a = sx.reduce(0) { $0 + $1 * $1 }, b = sy.reduce(0) { $0 + $1 * $1 }, c = 0.0
        for row in 0..<rows {
            let (k, kAlong) = terms(x, sx, d, row), (l, lAlong) = terms(y, sy, e, row)
            trace -= k * l
            a -= k
            b -= l
            c += (kAlong - k) * (lAlong - l)
        }
        let m = Double(rows)
        return (trace + a * b / ((m - 1) * (m - 2)) - 2 * c / (m - 2)) / (m * (m - 3))
    }

    /// exp of the entropy of the singular values of the centred features, as shares of their sum: 1 for a line, D where
    /// all directions count alike. Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007.
    static func effectiveRank(_ x: [Float], rows: Int) -> Double {
        let width = x.count / max(rows, 1), x = centered(x, rows: rows)
        let gram = product(x, x, rows: rows).map { Double($0) }
        let singular = SymmetricMatrix.eigenvalues(gram, order: width).map { max(0, $0).squareRoot() }
        return perplexity(singular)
    }

    /// exp of the entropy of non-negative weights, as shares of their sum. NaN where there is none.
    static func perplexity(_ weights: [Double]) -> Double {
        let sum = weights.reduce(0, +)
        guard sum > 0 else { return .nan }
        return exp(-weights.reduce(0) { $1 > 0 ? $0 + $1 / sum * log($1 / sum) : $0 })
    }

    /// XᵀY [D, E]. Sums are float32: callers centre X and Y, so that little cancels.
    private static func product(_ x: [Float], _ y: [Float], rows: Int) -> [Float] {
        let (d, e) = (x.count / rows, y.count / rows)
        var result = [Float](repeating: 0, count: d * e)
        let workspace = BufferPool().allocate(byteCount: max(1, hssl_gemm_f32_unpacked_workspace_size(d, e, rows)))
        hssl_gemm_f32_unpacked(d, e, rows, x, 1, d, y, e, 1, &result, e, false, nil, workspace.pointer)
        return result
    }

    /// HSIC does not change when a constant vector is added to every row.
    private static func centered(_ x: [Float], rows: Int) -> [Float] {
        let mean = columnSums(x, rows: rows).map { $0 / Double(max(rows, 1)) }
        return x.indices.map { Float(Double(x[$0]) - mean[$0 % mean.count]) }
    }

    private static func columnSums(_ x: [Float], rows: Int) -> [Double] {
        let width = x.count / max(rows, 1)
        var sums = [Double](repeating: 0, count: width)
        for (place, value) in x.enumerated() { sums[place % width] += Double(value) }
        return sums
    }
}
