import HSSLFormats
import HSSLGraph
import HSSLModels
import HSSLOnnx
import HSSLPretraining

extension BaseSource {
    /// Writes the model for ONNX runtimes.
    ///
    /// - Returns: what was written; of int8 with how near its static codes are.
    func writeOnnx(to output: String, precision: Precision, _ options: Int8Options) throws -> PreparedBase {
        try checkPrecision(precision)
        let plain = OnnxModel(architecture, preprocessing, values: values)
        switch precision {
        case .float32: try plain.write(to: output, provenance, as: .float32)
        case .float16: try plain.write(to: output, provenance, as: .float16)
        case .int8:
            // Measuring takes its time: what cannot be written is refused before.
            _ = try OutputTarget(output)
            let calibration = try CalibrationImages(options, preprocessing)
            let plainCodes: OnnxModel.Codes
            do { plainCodes = try plain.codes(over: calibration.images) } catch is OverflowError {
                throw CommandError("\(path): \(Int8Measurement.overflow)")
            }
            var (model, codes, groups) = (plain, plainCodes, 0)
            if options.smoothing == .on || options.smoothing == .auto && plainCodes.needsHelp {
                let scaling = try ChannelScaling(architecture, images: calibration.images, values: values)
                let smoothed = OnnxModel(architecture, preprocessing, values: smoothed(by: scaling))
                let smoothedCodes = try smoothed.codes(over: calibration.images)
                if options.smoothing == .on || smoothedCodes.isBetter(than: plainCodes) {
                    (model, codes, groups) = (smoothed, smoothedCodes, scaling.groupCount)
                }
            }
            let figures = ModelProvenance.Int8Figures(
                meanCosine: codes.meanCosine, leastCosine: codes.cosines.min() ?? 0,
                images: calibration.images.count, source: calibration.source,
                plainMeanCosine: plainCodes.meanCosine, smoothedGroups: groups)
            var provenance = provenance
            provenance.int8 = figures
            try model.write(to: output, provenance, as: .int8(codes))
            let rest = codes.products.all - codes.products.quantized
            let plain = "\(rest) of \(codes.products.all) layers stay in float32: their codes cost too much"
            let notes = calibration.notes + (rest == 0 ? [] : [plain])
            return prepared(.int8, measured: Int8Measurement(figures: figures, notes: notes))
        }
        return prepared(precision, measured: nil)
    }

    private func smoothed(by scaling: ChannelScaling) -> (String) throws -> [Float] {
        let parameters = ModelTrace(architecture).parameters
        return { name in scaling.values(try values(name), of: name, shape: parameters[name]?.shape ?? []) }
    }
}

extension OnnxModel.Codes {
    /// Whether products had to stay in float32, or that was not enough.
    fileprivate var needsHelp: Bool { meanCosine < OnnxModel.goal || products.quantized < products.all }

    /// The goal first, then as many products as can be.
    fileprivate func isBetter(than other: Self) -> Bool {
        func rank(_ codes: Self) -> (Double, Int, Double) {
            (min(codes.meanCosine, OnnxModel.goal), codes.products.quantized, codes.meanCosine)
        }
        return rank(self) > rank(other)
    }
}
