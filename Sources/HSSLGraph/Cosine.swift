/// Of two vectors; 1 for two that are zero.
package func cosine(_ a: some Collection<Float>, _ b: some Collection<Float>) -> Double {
    var (ab, aa, bb) = (0.0, 0.0, 0.0)
    for (x, y) in zip(a, b) {
        ab += Double(x) * Double(y)
        aa += Double(x) * Double(x)
        bb += Double(y) * Double(y)
    }
    return aa == bb && aa == 0 ? 1 : ab / max((aa * bb).squareRoot(), .leastNormalMagnitude)
}
