import HSSLGraph
import HSSLModels

/// MoCo v3: a prediction is to be nearer to the teacher's key of its own image than to the keys of all others.
///
/// loss = Σ over both directions of 2τ·mean over images i of cross-entropy(softmax(q_i·k_j/τ over j), i).
/// Source: Chen, Xie, He, "An empirical study of training self-supervised vision transformers", ICCV 2021.
package struct MoCoV3Settings: AgreementSettings {
    package var hidden: Int
    package var output: Int
    package var projectorLayers = 3
    /// Whether the predictor ends in batch norm without affine map.
    package var predictorLastNorm = true
    /// τ.
    package var temperature: Float = 0.2

    package init(hidden: Int, output: Int) { (self.hidden, self.output) = (hidden, output) }

    package var name: String { "mocov3" }

    package func projector(_ scope: ParameterScope, width: Int) -> BatchNormMLP {
        let inner = [Int](repeating: hidden, count: projectorLayers - 1)
        return BatchNormMLP(scope, widths: [width] + inner + [output], bias: false, lastNorm: true)
    }

    package func predictor(_ scope: ParameterScope) -> BatchNormMLP {
        BatchNormMLP(scope, widths: [output, hidden, output], bias: false, lastNorm: predictorLastNorm)
    }

    package func agreement(of predictions: Tensor, with targets: Tensor, weight: Float) -> Agreement {
        let images = predictions.rows, tape = predictions.tape
        let similarities = predictions.linear(weight: targets, bias: nil, role: .full)
        let oneHot = tape.constant(shape: [images, images], storage: tape.pool.zeros(images * images))
        for image in 0..<images { oneHot.values[image * (images + 1)] = 1 }
        let scale = 2 * temperature / Float(images)
        var losses: [Float] = []
        let loss = similarities.softCrossEntropy(
            targets: oneHot, weights: [Float](repeating: weight * scale, count: images), temperature: temperature,
            rowLosses: &losses)
        let one = tape.pool.floats(1)
        one.floats[0] = 1
        return Agreement(loss: losses.reduce(0.0) { $0 + Double($1) } * Double(scale), seed: (loss, one))
    }
}
