//! Small statistics: medians, means with their standard error, and curves of least squares.

/// Coefficients a₀ + a₁x + a₂x² + … of the least squares through (x, y); `None` with fewer different x than coefficients.
pub(super) fn polynomial(points: &[(f64, f64)], degree: usize) -> Option<Vec<f64>> {
    // Powers of x / max |x| lie between -1 and 1: the sums below stay well conditioned.
    let unit = points.iter().fold(0.0_f64, |unit, (x, _)| unit.max(x.abs()));
    let n = degree + 1;
    // The normal equations, with the right side as the last column.
    let mut rows = vec![vec![0.0; n + 1]; n];
    for (x, y) in points {
        for (i, row) in rows.iter_mut().enumerate() {
            for (j, sum) in row.iter_mut().enumerate() {
                *sum += if j < n { (x / unit).powi((i + j) as i32) } else { (x / unit).powi(i as i32) * y };
            }
        }
    }
    // Gauss and Jordan.
    for column in 0..n {
        let pivot = (column..n).max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()))?;
        rows.swap(column, pivot);
        let top = rows[column].clone();
        if top[column].abs() <= 1e-9 * points.len() as f64 {
            return None;
        }
        for (i, row) in rows.iter_mut().enumerate() {
            let factor = if i == column { 1.0 - 1.0 / top[column] } else { row[column] / top[column] };
            row.iter_mut().zip(&top).for_each(|(value, above)| *value -= factor * above);
        }
    }
    Some(rows.iter().enumerate().map(|(power, row)| row[n] / unit.powi(power as i32)).collect())
}

/// k of the least squares y = c·xᵏ, in logarithms.
pub(super) fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    polynomial(&logs, 1).map(|line| line[1])
}

/// The middle value; of an even number of values the mean of both.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}

/// The mean; `None` of nothing.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard error of the mean of independent values; `None` of fewer than two.
pub(super) fn standard_error(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let n = values.len() as f64;
    (n > 1.0).then(|| (squares / (n - 1.0) / n).sqrt())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;

    fn assert_close(found: &[f64], wanted: &[f64]) {
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(wanted) {
            assert!((found - wanted).abs() <= 1e-9 * wanted.abs().max(1e-3), "{found} for {wanted}");
        }
    }

    #[test]
    fn exact_curves_are_found() {
        let points = |f: &dyn Fn(f64) -> f64| [256.0, 512.0, 1024.0, 4096.0].map(|x| (x, f(x)));
        assert_close(&polynomial(&points(&|x| 3.0 + 0.25 * x), 1).unwrap(), &[3.0, 0.25]);
        assert_close(&polynomial(&points(&|x| 3.0 + 0.25 * x + 1e-4 * x * x), 2).unwrap(), &[3.0, 0.25, 1e-4]);
        assert_close(&[exponent(&points(&|x| 7.0 * x.powf(1.5))).unwrap()], &[1.5]);
    }

    #[test]
    fn noise_is_averaged_as_least_squares_do() {
        // By hand: mean x 2, mean y 5, slope (-1 · -2 + 1 · 1) / 2 = 1.5, intercept 5 - 2 · 1.5.
        assert_close(&polynomial(&[(1.0, 3.0), (2.0, 6.0), (3.0, 6.0)], 1).unwrap(), &[2.0, 1.5]);
    }

    #[test]
    fn too_few_points_have_no_curve() {
        assert_eq!(polynomial(&[(256.0, 1.0), (512.0, 2.0)], 2), None);
        assert_eq!(polynomial(&[(256.0, 1.0), (256.0, 2.0)], 1), None);
        assert_eq!(exponent(&[]), None);
    }

    #[test]
    fn medians_and_errors_of_known_numbers() {
        assert_eq!(median(&[5.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 100.0]), Some(3.5));
        assert_eq!(median(&[]), None);
        // Variance 5 / 3 of four values.
        assert_close(&[standard_error(&[1.0, 2.0, 3.0, 4.0]).unwrap()], &[(5.0_f64 / 12.0).sqrt()]);
        assert_eq!(standard_error(&[1.0]), None);
    }
}
